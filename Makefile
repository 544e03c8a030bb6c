# Everything runs in .venv, which is made on first use and again when the requirements change.
PYTHON ?= python3
OUT ?= demo_output
# What travels to a machine with a GPU that has no package index, and the images that its cases are made of.
GPU := .gpu
SHARED ?= ../shared
# The model zoo's schema of the bundle's metadata; without it, `make zoo` checks what it asks, but not with the file itself.
SCHEMA ?= $(SHARED)/schemas/meta_schema_20240725.json

BIN := .venv/bin
OLDEST := .venv-oldest/bin
REQUIREMENTS := pyproject.toml constraints.txt monai_locor/_version.py
# For x86-64 the index has this version with CUDA only (8 GB installed); OLDEST_TORCH=VERSION takes another.
OLDEST_TORCH ?= 2.8.0
# What depends on the versions of torch, NumPy, MONAI, nibabel and ITK.
OLDEST_TESTS := tests/test_precision.py tests/geometry tests/io tests/losses tests/networks tests/registration/test_register.py
# Of the documentation: that of the package without the last number, as 1.0.
VERSION := $(shell sed -n 's/^__version__ = "\([0-9]*\.[0-9]*\).*/\1/p' monai_locor/_version.py)
# One thread for each of pytest's processes: many small operations gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow test-interop test-kernels test-oldest lint docs docs-version links texts format gpu gpu-wheels gpu-cases gpu-reference release zoo clean distclean

help:
	@echo "make demo       register two images (FIXED=... MOVING=... OUT=$(OUT); without them, example images)"
	@echo "make test       run the tests and the doctests"
	@echo "make coverage   run them, print what they cover; it takes half as long again"
	@echo "make test-slow  run the tests marked slow"
	@echo "make test-interop  run the tests with ANTs, elastix, nitransforms and the BIDS validator (installs them)"
	@echo "make test-kernels  run the tests of the GPU kernels in Triton's interpreter (installs Triton, 1 GB)"
	@echo "make test-oldest  run core tests with the oldest versions allowed, in .venv-oldest (OLDEST_TORCH=$(OLDEST_TORCH))"
	@echo "make lint       ruff check, ruff format --check, mypy"
	@echo "make docs       run tutorials with stale outputs, build the documentation into site/"
	@echo "make docs-version  add it as version VERSION=$(VERSION) to the local branch gh-pages (ALIAS=latest) and to versions/"
	@echo "make links      request every link to another server (needs the internet, and only Python)"
	@echo "make texts      update what the pages quote: help texts, table of formats, measured figures"
	@echo "make format     let ruff fix and format what it can"
	@echo "make gpu        check and measure on a GPU, nine minutes, with $(PYTHON) as it is and no index (RESULTS=...)"
	@echo "make gpu-wheels, gpu-cases  make what gpu needs beside this repository, in $(GPU)/, on a machine with an index"
	@echo "make gpu-reference  register these cases on the CPU, for gpu to compare with"
	@echo "make release    check, build and try a release in dist/ (ARGS=--rehearse without a tag); nothing is uploaded"
	@echo "make zoo        assemble the bundle for the model zoo and the Hugging Face Hub in dist/zoo, and check it (REPO=ACCOUNT/NAME)"
	@echo "make clean      remove build outputs, caches and demo_output"
	@echo "make distclean  clean, and remove .venv and .venv-oldest"
	@echo "PYTHON=$(PYTHON) makes .venv; it must be 3.10 or newer"

demo: .venv/.stamp-run
	$(BIN)/python -m monai_locor demo $(if $(FIXED),--fixed "$(FIXED)") $(if $(MOVING),--moving "$(MOVING)") --output-dir "$(OUT)"

test: .venv/.stamp-run
	$(PYTEST) --dist=worksteal

coverage: .venv/.stamp-run
	$(PYTEST) --dist=worksteal --cov --cov-report=term:skip-covered

test-slow: .venv/.stamp-run
	$(PYTEST) --dist=loadfile -m slow || \
		{ echo "the failed tests once more: those of several processes can be hit by a busy machine"; \
		$(BIN)/python -m pytest -m slow --last-failed; }

test-interop: .venv/.stamp-interop
	$(PYTEST) --dist=loadfile tests/bids/test_validator.py tests/io/test_nitransforms.py tests/io/test_points.py \
		tests/io/test_round_trips.py tests/io/test_transforms_elastix.py tests/io/test_transforms_itk.py

test-kernels: .venv/.stamp-kernels
	TRITON_INTERPRET=1 $(PYTEST) --dist=worksteal tests/losses/kernels

test-oldest: .venv-oldest/.stamp-torch-$(OLDEST_TORCH)
	OMP_NUM_THREADS=1 $(OLDEST)/python -m pytest -p no:cacheprovider --numprocesses=auto --maxprocesses=8 $(OLDEST_TESTS)

lint: .venv/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python tutorials/run.py --stale --keep docs/tutorials --jobs 2
	$(BIN)/python -m mkdocs build --strict

# Nothing is pushed. Without a default version yet, this one becomes the default.
docs-version: docs .venv/.stamp-mike
	PATH="$(CURDIR)/$(BIN):$$PATH" mike deploy --update-aliases $(VERSION) $(ALIAS)
	[ -z "$(ALIAS)" ] && git cat-file -e gh-pages:index.html 2>/dev/null || $(BIN)/mike set-default $(or $(ALIAS),$(VERSION))
	rm -rf versions && mkdir versions && git archive gh-pages | tar -x -C versions

links:
	"$(PYTHON)" docs/hooks/external_links.py

texts: .venv/.stamp-run
	$(BIN)/python docs/hooks/help_texts.py
	$(BIN)/python docs/hooks/figures.py

format: .venv/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu:
	"$(PYTHON)" benchmarks/gpu.py $(if $(RESULTS),--output "$(RESULTS)")

gpu-wheels: .venv/.stamp-run
	rm -rf $(GPU)/wheels
	$(BIN)/python -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
		-c constraints.txt -d $(GPU)/wheels monai nibabel pytorch-ignite tqdm

gpu-cases: .venv/.stamp-run
	$(BIN)/python benchmarks/gpu_cases.py pack "$(SHARED)/bench" "$(SHARED)/data" $(GPU)/cases

gpu-reference: .venv/.stamp-run
	$(BIN)/python benchmarks/gpu_cases.py unpack $(GPU)/cases build/gpu_cases
	for n in 1 2; do $(BIN)/python benchmarks/registration.py build/gpu_cases --threads $$n \
		--json benchmarks/gpu_reference_$$n.json || exit 1; done

release: .venv/.stamp-release
	$(BIN)/python packaging/release.py $(ARGS)

zoo: .venv/.stamp-run
	$(BIN)/python packaging/zoo.py $(if $(REPO),--repo "$(REPO)") $(addprefix --schema ,$(wildcard $(SCHEMA))) \
		$(addprefix --wheel ,$(wildcard dist/*.whl)) $(ARGS)

.venv/.stamp-run: $(REQUIREMENTS) | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --upgrade 'pip>=25.1' # the first with --group
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[bundle,cohort,demo,formats,tune]' --group test
	@touch $@

.venv/.stamp-interop: .venv/.stamp-run
	$(BIN)/python -m pip install --disable-pip-version-check --only-binary antspyx,itk-elastix -c constraints.txt --group interop
	@touch $@

.venv/.stamp-kernels: .venv/.stamp-run
	$(BIN)/python -m pip install --disable-pip-version-check --only-binary triton -c constraints.txt --group kernels
	@touch $@

.venv/.stamp-dev: .venv/.stamp-run
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --group dev
	@touch $@

.venv/.stamp-mike: .venv/.stamp-dev
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt mike
	@touch $@

.venv/.stamp-release: .venv/.stamp-run
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt build twine
	@touch $@

.venv-oldest/.stamp-torch-$(OLDEST_TORCH): pyproject.toml constraints-oldest.txt
	"$(PYTHON)" -m venv --clear .venv-oldest
	sed 's/^torch==.*/torch==$(OLDEST_TORCH)/' constraints-oldest.txt > .venv-oldest/constraints.txt
	$(OLDEST)/python -m pip install --disable-pip-version-check -c .venv-oldest/constraints.txt \
		-e '.[plot]' h5py pydicom pytest pytest-xdist safetensors SimpleITK
	@touch $@

.venv/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: '$(PYTHON)' not found; name a Python >= 3.10 with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: Python >= 3.10 is needed, '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name another with PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "error: no venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

clean:
	rm -rf build dist site versions demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-oldest
