# An image whose entry point is `monai-locor`.
#
#     docker build -t monai-locor .                                                                    # for CPUs
#     docker build -t monai-locor:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .  # for NVIDIA GPUs
#     docker run --rm monai-locor demo -o /tmp/demo
#     docker run --rm --gpus all -v "$PWD:/data" -u "$(id -u):$(id -g)" monai-locor:cuda register fixed.nii.gz moving.nii.gz -o out
#
# torch's wheels for CUDA bring the CUDA libraries; the host needs only the driver and NVIDIA's container toolkit.
ARG BASE=python:3.12-slim
# hadolint ignore=DL3006
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=bundle,cohort,demo,formats

WORKDIR /opt/monai-locor
COPY constraints.txt ./
RUN version=$(sed -n 's/^torch==//p' constraints.txt) \
    && python -m pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==$version"
COPY LICENSE README.md pyproject.toml ./
COPY monai_locor monai_locor
RUN python -m pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" \
    && useradd --create-home --uid 1000 locor && mkdir /data && chown locor /data

# MONAI and matplotlib write caches; any user given with -u may.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 1000
WORKDIR /data
HEALTHCHECK NONE
ENTRYPOINT ["monai-locor"]
CMD ["--help"]
