# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The windows that dominate a registration, in the forms of the loss.

Registers each case once. Around every sample the residual R of the local fit and the variance V of the fixed image are
computed. A fit that improves by a hundredth of the variance changes the logarithm by V / (R + eps) hundredths, the
normalized form by V / (V + eps) hundredths, and the robust form in proportion to V / (R + s (V + eps)), s being the mean of
R / (V + eps): this is the weight of the window. Prints, for each form, the share of the total weight of the best fitting
quarter of the windows (by R / V) and of the flatter half (by V), without windows of constant intensity, and draws a plane.

    python benchmarks/influence.py FOLDER brain_t2_t1_2mm subjects_flair01_t1_02 --preset fast --output pictures
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tables import markdown
from explain import checked, common
from registration import about

from monai_locor import register
from monai_locor.losses.windows import AxisWindows
from monai_locor.registration.config import PRESETS, RegistrationConfig
from monai_locor.report.explain.residual import basis_of, fit_windows
from monai_locor.report.pictures.planes import planes_through
from monai_locor.visualize import Samples, samples_of_result

CONSTANT = 1e-6  # variance below which a window has nothing to say, in squared normalized intensities
COLUMNS = ("case", "form", "eps", "windows", "median R / V", "best quarter's share", "flatter half's share")
FORMS = {  # name: form and floor
    "log": ("log", PRESETS["default"].eps),
    "normalized": ("normalized", PRESETS["default"].eps),
    "robust": ("robust", PRESETS["intersubject"].eps),
}


def residual_and_variance(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """R and V of the window around every sample, ``(*grid)``, NaN where no voxel is valid or the image is constant."""
    shift = torch.zeros((), dtype=samples.moving.dtype)
    sigma, cut = samples.config.kernel_sigma, samples.config.truncated
    windows = [AxisWindows.gaussian(n, sigma, 1.0, cut, shift) for n in samples.grid.shape]

    def moments(form: str) -> Any:
        config = dataclasses.replace(samples.config, form=form, eps=1e-12)
        return fit_windows(dataclasses.replace(samples, config=config), basis_of(samples), windows)

    log, normalized = moments("log"), moments("normalized")
    residual, variance = log.residual[0, 0].numpy(), normalized.deviation[0, 0].numpy() ** 2
    left_out = ~log.counts[0, 0].numpy().astype(bool) | (variance < CONSTANT)
    return np.where(left_out, np.nan, residual), np.where(left_out, np.nan, variance)


def influence(residual: np.ndarray, variance: np.ndarray, form: str, eps: float) -> np.ndarray:
    """Weight of each window, relative to the mean."""
    if form == "robust":
        contrast = variance / (variance + eps)
        scale = np.nansum(contrast * residual / (variance + eps)) / np.nansum(contrast)
        value = variance / (residual + scale * (variance + eps))
    else:
        value = variance / ((residual if form == "log" else variance) + eps)
    return value / np.nanmean(value)


def shares(residual: np.ndarray, variance: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Shares of the quarter of windows with the smallest R / V, and of the half with the smallest V."""
    known = np.isfinite(counts)
    ratio, flat, counts = residual[known] / variance[known], variance[known], counts[known]
    best, flatter = ratio <= np.quantile(ratio, 0.25), flat <= np.median(flat)
    return float(counts[best].sum() / counts.sum()), float(counts[flatter].sum() / counts.sum())


def draw(samples: Samples, maps: dict[str, np.ndarray], path: Path, title: str, dpi: int) -> None:
    """The middle axial plane: the fixed image, R / V, and the weight of each window."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    plane = planes_through(samples.grid, [n // 2 for n in samples.grid.shape])[0]
    figure: Any = Figure(figsize=(2.6 * (len(maps) + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, len(maps) + 1)
    axes[0].imshow(plane.cut(samples.fixed[0, 0].numpy()), cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("fixed", fontsize=9)
    for axis, (name, values) in zip(axes[1:], maps.items(), strict=True):
        ratio = name == "R / V"
        norm = {"vmin": 0, "vmax": 1} if ratio else {"norm": LogNorm(0.1, 10)}
        shown = axis.imshow(plane.cut(values), cmap="magma" if ratio else "viridis", **norm)
        axis.set_title(name, fontsize=9)
        figure.colorbar(shown, ax=axis, orientation="horizontal", shrink=0.8, extend="neither" if ratio else "both")
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=dpi)


def study(case: Path, options: argparse.Namespace) -> list[list[str]]:
    """Register a case and draw it; return rows of the table."""
    images = [case / f"{role}.nii.gz" for role in ("fixed", "moving")]
    config = dataclasses.replace(RegistrationConfig.of(options.preset), intersubject="never")
    result = register(*images, preset=config, device=options.device, seed=options.seed, progress=False)
    samples = samples_of_result(result, *images)[1]
    residual, variance = residual_and_variance(samples)
    ratio = residual / variance
    rows, maps = [], {"R / V": ratio}
    for name, (form, eps) in FORMS.items():
        counts = influence(residual, variance, form, eps)
        maps[f"influence, {name}"] = counts
        parts = (f"{share:.0%}" for share in shares(residual, variance, counts))
        rows.append([case.name, form, f"{eps:g}", str(int(np.isfinite(counts).sum())), f"{np.nanmedian(ratio):.2f}", *parts])
    title = f"{case.name}, after registration ({options.preset}): which windows count, relative to the mean"
    draw(samples, maps, options.output / f"{case.name}-influence.png", title, options.dpi)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = checked(common(__doc__.splitlines()[0], 110), arguments)
    torch.set_num_threads(options.threads)
    rows: list[list[str]] = []
    for case in options.cases:
        rows += study(case, options)
        print(rows[-1], file=sys.stderr)
    print(", ".join(f"{name} {value}" for name, value in about(options).items()))
    print(f"preset {options.preset}, seed {options.seed}\n")
    print(markdown(COLUMNS, rows))


if __name__ == "__main__":
    main()
