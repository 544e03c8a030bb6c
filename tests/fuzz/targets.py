# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Calls of the package that fuzzing makes in the child process, by name.

Each raises InputError, or returns the message of a refusal; any other exception and any failed assertion is a fault.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_locor import RegistrationResult, register
from monai_locor.cli import main
from monai_locor.cohort.lists import read_pairs
from monai_locor.cohort.pairs import check_pairs
from monai_locor.data.datalist import registration_pairs
from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io import read_image, read_mask, read_mesh, read_points, read_transform
from monai_locor.io.basis_files import read_basis
from monai_locor.io.grids import read_grid
from monai_locor.io.images import read_labels
from monai_locor.io.itk_library import load_itk, load_simpleitk
from monai_locor.registration import RegistrationConfig, Stage
from monai_locor.registration.manifest import RunManifest

from .seeds import FIXED, MOVING, make_seeds
from .specs import made

MAX_VOXELS = 40**3  # of an image that a file of a few kilobytes may become, apart from compression
STAGES = (Stage(2, 1), Stage(2, 2, spacing=8))
EXIT_CODES = (0, 1, 2)


def warm_up() -> None:
    """Import what the targets import on first use."""
    logging.getLogger("monai_locor").setLevel(logging.CRITICAL)
    load_itk("fuzzing").Image  # noqa: B018 (loads its modules)
    load_simpleitk()


def refusals(*calls: Callable[[], object]) -> str:
    """Make all calls; the first refusal, or an empty string."""
    found = []
    for call in calls:
        try:
            call()
        except InputError as error:
            found.append(str(error))
    return next(iter(found), "")


def _finite(image: torch.Tensor) -> None:
    assert torch.isfinite(image.as_subclass(torch.Tensor)).all(), "not finite"


def image(path: str) -> str:
    """An image file, as image, mask, label map and grid."""

    def as_image() -> None:
        found, valid = read_image(path)
        _finite(found)
        grid = read_grid(path)
        if not path.endswith((".png", ".tif")):
            assert grid.shape == tuple(found.shape[1:]), f"grid {grid.shape}, image {tuple(found.shape)}"
            assert np.allclose(grid.affine, Grid.of(found).affine, rtol=1e-5, atol=1e-5), "another affine in the header"
        assert valid is None or valid.shape == found.shape

    def as_mask() -> None:
        found = read_mask(path)
        _finite(found)
        assert float(found.min()) >= 0 and float(found.max()) <= 1

    return refusals(as_image, as_mask, lambda: read_labels(path), lambda: read_grid(path))


def array(spec: dict[str, Any]) -> str:
    """An image in memory."""
    values, affine = made(spec)
    return refusals(
        lambda: _finite(read_image((values, affine))[0]), lambda: read_mask((values, affine)), lambda: read_labels(values)
    )


def registration(fixed: dict[str, Any], moving: dict[str, Any], mask: str, options: dict[str, Any]) -> str:
    """A short registration; whatever it returns is finite."""
    images = [made(spec) for spec in (fixed, moving)]
    if mask:
        weights = (made({**fixed, "values": mask, "dtype": "float32"})[0], images[0][1])
        options = {**options, "fixed_mask": weights}
    preset = RegistrationConfig(stages=STAGES, multistart="never")
    result = register(*images, preset=preset, progress=False, device="cpu", **options)
    for values in (result.forward_mm, result.inverse_mm, result.warped_moving, result.warped_fixed):
        _finite(values)
    assert np.isfinite(result.affine).all(), "affine not finite"
    return ""


def transform(path: str, format: str | None) -> str:
    """A transform file, of a format or of any; what is read maps points to finite points."""
    found = read_transform(path, format=format, fixed=FIXED, moving=MOVING)
    points = torch.from_numpy(FIXED.corners() if found.dims == FIXED.dims else Grid((3, 3), np.eye(3)).corners())
    _finite(found.points(points))
    return ""


def points(path: str) -> str:
    """A file of points."""
    return refusals(lambda: _finite(read_points(path).points))


def surface(path: str) -> str:
    """A file of a mesh."""
    return refusals(lambda: _finite(torch.from_numpy(read_mesh(path).vertices)))


def settings(path: str) -> str:
    """A file of settings; what is read can be written again."""
    config = RegistrationConfig.of(path)
    assert RegistrationConfig.of(config.to_dict()) == config
    return ""


def pairs(path: str) -> str:
    """A list of pairs of the bundle and of a cohort."""

    def cohort() -> None:
        check_pairs(read_pairs(path)[:20])

    return refusals(cohort, lambda: registration_pairs(datalist=path))


def run(path: str) -> str:
    """The output folder of a registration."""
    return refusals(
        lambda: RunManifest.load(path).arguments(),
        lambda: RegistrationResult.load(path),
        lambda: read_transform(path),
        lambda: _command(["info", path]),
    )


def basis(path: str) -> str:
    """The two files of a learned basis."""
    return refusals(lambda: read_basis(path))


def command(words: list[str], output: str) -> str:
    """A command line that writes into a folder of its own; a refusal leaves nothing there."""
    folder = Path(output)
    shutil.rmtree(folder, ignore_errors=True)
    message = _command(words)
    left = sorted(p.name for p in folder.rglob("*")) if folder.exists() else []
    assert not message or not left, f"refused ({message}), but there is {left}"
    assert not any(name.startswith(".") for name in left), left
    shutil.rmtree(folder, ignore_errors=True)
    return message


def _command(words: list[str]) -> str:
    out, log = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = main(words)
    assert code in EXIT_CODES, f"exit code {code}: {log.getvalue()[-300:]}"
    return log.getvalue().strip().splitlines()[-1] if code == 2 else ""


def seeds(folder: str) -> str:
    """Write the valid files that are mutated."""
    make_seeds(Path(folder))
    return ""


TARGETS: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (image, array, registration, transform, points, surface, settings, pairs, run, basis, command, seeds)
}
