# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whole registrations on the pretended device: no two devices meet, the result is the CPU's and lies on the host."""

from __future__ import annotations

import dataclasses
import io
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.registration import PRESETS, Stage, parallel

from ..meshes import ellipsoid
from ..phantoms import anatomy, grid_of, image, pair
from .agreement import elsewhere, use_portions_of_a_gpu
from .child import NAME, work

There = Callable[[torch.Tensor], torch.Tensor]  # moves a tensor to where it is registered

SMALL = grid_of((20, 18, 22), (3.0, 3.0, 2.5), turn=0.1)
THIN = grid_of((22, 20, 12), (2.5, 3.0, 5.0)).reordered((2, 0, 1), (False, True, False))
PLANE = grid_of((36, 32), (2.0, 2.0), (0.0, 0.0))
CONFIG = RegistrationConfig(stages=(Stage(4, 1), Stage(2, 2, spacing=8)), multistart="never", intersubject="never")
SHIFT = [[1.0, 0.05, 1.5], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]]  # mm
SAME = 1e-3  # mm


def masks(fixed: MetaTensor, moving: MetaTensor) -> dict[str, MetaTensor]:
    return {f"{role}_mask": (x > 0.1).float() for role, x in (("fixed", fixed), ("moving", moving))}


def moved(x: MetaTensor, there: There) -> MetaTensor:
    return MetaTensor(there(x.as_tensor()), affine=x.affine)


def with_hole(x: MetaTensor) -> MetaTensor:
    out = x.clone()
    out[0, 3:8, 4:9] = torch.nan
    return out


def volumes(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    return {"fixed": fixed, "moving": moving}


def masked_volumes_there(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    return {"fixed": moved(fixed, there), "moving": moved(moving, there), **masks(fixed, moving)}


def planes(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(PLANE, PLANE)
    return {"fixed": fixed, "moving": moving}


def masked_planes(there: There) -> dict[str, Any]:
    options = planes(there)
    return options | masks(**options)


def holes_and_masks_of_the_host(there: There) -> dict[str, Any]:
    options = planes(there)
    return {role: moved(with_hole(image), there) for role, image in options.items()} | masks(**options)


def holes_and_masks_there(there: There) -> dict[str, Any]:
    options = planes(there)
    given = {name: moved(mask, there) for name, mask in masks(**options).items()}
    return {role: with_hole(image) for role, image in options.items()} | given


def matrix_there(there: There) -> dict[str, Any]:
    return planes(there) | {"initial": there(torch.tensor(SHIFT))}


def matrix_with_gradient(there: There) -> dict[str, Any]:
    return planes(there) | {"initial": there(torch.tensor(SHIFT)).requires_grad_()}


def field_there(there: There) -> dict[str, Any]:
    return planes(there) | {"initial": there(pair(PLANE, PLANE)[2])}


def field_with_gradient(there: There) -> dict[str, Any]:
    return planes(there) | {"initial": there(pair(PLANE, PLANE)[2]).requires_grad_()}


def velocity_there(there: There) -> dict[str, Any]:
    return planes(there) | {"initial_velocity": there(pair(PLANE, PLANE)[2] / 4)}


def velocity_of_the_host(there: There) -> dict[str, Any]:
    return velocity_there(lambda x: x)


def known_basis(there: There) -> dict[str, Any]:
    return planes(there) | {"initial_basis": registered(planes(there), "cpu").basis}


def landmarks_there(there: There) -> dict[str, Any]:
    points = torch.tensor([[-10.0, 4.0], [8.0, -6.0], [3.0, 12.0]])
    return planes(there) | {"landmarks": (there(points), there(points + 2), there(torch.ones(3)))}


def surfaces_there(there: There) -> dict[str, Any]:
    """Meshes are read on the host."""
    return volumes(there) | {"surfaces": (ellipsoid(rings=6), ellipsoid(center=(2.0, 0, 0), rings=6))}


def own_module(there: There) -> dict[str, Any]:
    return planes(there) | {"similarity": nn.L1Loss()}


def velocity_of_every_stage(there: There) -> dict[str, Any]:
    """As in the preset paper, with a step in each of its stages."""
    paper = PRESETS["paper"]
    return volumes(there) | {
        "preset": dataclasses.replace(paper, stages=tuple(dataclasses.replace(s, iterations=1) for s in paper.stages))
    }


def many_starts(there: There) -> dict[str, Any]:
    """From so far away that the search finds another start."""
    fixed, moving, _ = pair(PLANE, PLANE)
    start = np.eye(3)
    start[0, 2] = 30
    stages = (Stage(4, 3), Stage(2, 1, spacing=8))
    return {"fixed": fixed, "moving": moving, "initial": start, "preset": changed(stages=stages, multistart="always")}


def intersubject_pair(there: There) -> dict[str, Any]:
    """Images that have nothing to do with each other, and a deformation that bends."""
    fixed, _, _ = pair(PLANE, PLANE)
    bent = torch.from_numpy(2 * np.sin(PLANE.points() / 5)).movedim(-1, 0).float()
    noise = nn.functional.avg_pool2d(torch.rand(1, *PLANE.shape, generator=torch.Generator().manual_seed(1)), 3, 1, 1)
    config = changed(stages=(Stage(4, 1), Stage(4, 2, spacing=16), Stage(2, 1, spacing=8)), intersubject="auto")
    return {"fixed": fixed, "moving": image(noise[0].numpy(), PLANE), "preset": config, "initial_velocity": there(bent)}


def undone(there: There) -> dict[str, Any]:
    """Long steps next to a perfect fit."""
    same = image(anatomy(PLANE.points()), PLANE)
    return {"fixed": same, "moving": same, "preset": changed(stages=(Stage(2, 20), Stage(2, 6, 8, learning_rate=0.5)))}


def changed(**settings: Any) -> RegistrationConfig:
    return dataclasses.replace(CONFIG, **settings)


FAST = [holes_and_masks_of_the_host, field_there]
SLOW = [
    masked_volumes_there,
    masked_planes,
    matrix_there,
    intersubject_pair,
    volumes,
    planes,
    holes_and_masks_there,
    matrix_with_gradient,
    field_with_gradient,
    velocity_there,
]
SLOW += [
    velocity_of_the_host,
    landmarks_there,
    surfaces_there,
    known_basis,
    own_module,
    velocity_of_every_stage,
    many_starts,
    undone,
]
CASES = [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]
TOLD = {"many_starts": "from another start", "intersubject_pair": "as between two subjects", "undone": "was undone"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_result_is_the_cpus(cuda, monkeypatch, case, caplog):
    use_portions_of_a_gpu(monkeypatch)
    with caplog.at_level(logging.INFO, logger="monai_locor"):
        there = registered(case(lambda x: x.to("cuda")), "cuda")
        assert TOLD.get(case.__name__, "") in caplog.text
    assert cuda.record.launches["grid_sampler_3d"] + cuda.record.launches["grid_sampler_2d"] > 4
    assert there.device.startswith("cuda")
    assert not elsewhere(there, "cpu")
    agree(there, registered(case(lambda x: x), "cpu"))


class PretendingContext:
    """Instead of multiprocessing's: a process that it starts has the pretended device as well."""

    def __init__(self, library: Path, launches: Path) -> None:
        self.library, self.launches = library, launches

    def Process(  # noqa: N802 (named as in multiprocessing)
        self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool
    ) -> multiprocessing.Process:
        packed = io.BytesIO()
        torch.save((target, args), packed)
        context = multiprocessing.get_context("spawn")
        return context.Process(target=work, args=(self.library, packed.getvalue(), self.launches), daemon=daemon)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [("cuda:0", "cuda:1"), ("cpu", "cuda:1")], ids="-".join)
def test_two_devices(cuda, monkeypatch, request, tmp_path, devices):
    """Each direction in a process of its own."""
    library, launches = request.config.pluginmanager.get_plugin(NAME).library, tmp_path / "launches"
    with monkeypatch.context() as patch:
        use_portions_of_a_gpu(patch)
        patch.setattr(parallel.mp, "get_context", lambda _: PretendingContext(library, launches))
        there = registered(volumes(lambda x: x), None, devices=devices)
    agree(there, registered(volumes(lambda x: x), "cpu"))
    assert not elsewhere(there, "cpu") and there.device == devices[0] and there.basis is not None
    assert bool(cuda.record.launches) == devices[0].startswith("cuda") and int(launches.read_text()) > 500


def registered(options: dict[str, Any], device: str | None, **more: Any) -> RegistrationResult:
    return register(**{"preset": CONFIG, "progress": False, "device": device, **options, **more})


def agree(there: RegistrationResult, here: RegistrationResult) -> None:
    for name in ("forward_mm", "inverse_mm"):
        a, b = getattr(there, name), getattr(here, name)
        assert float((a - b).norm(dim=0).max()) < SAME and float(b.std()) > 0.05, name
    np.testing.assert_allclose(there.affine, here.affine, atol=1e-4)
    for name in ("warped_moving", "warped_fixed", "fixed_image", "moving_image"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), atol=1e-3, rtol=1e-3, equal_nan=True)
    for a, b in zip(there.history, here.history, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)


def test_the_random_state_of_the_device_is_left_alone(cuda, monkeypatch):
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    registered(planes(lambda x: x), "cuda")
    assert not seeds and not cuda.record.draws
