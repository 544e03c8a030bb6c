# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Whole registrations on the pretended device: no two devices meet, the result is the CPU's and lies on the host."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.registration import Stage

from ..registration.phantom import anatomy, grid_of, image, offset, pair

There = Callable[[torch.Tensor], torch.Tensor]  # moves a tensor to where it is registered

SMALL = grid_of((20, 18, 22), (3.0, 3.0, 2.5), turn=0.1)
THIN = grid_of((22, 20, 12), (2.5, 3.0, 5.0)).reordered((2, 0, 1), (False, True, False))
PLANE = grid_of((36, 32), (2.0, 2.0), (0.0, 0.0))
CONFIG = RegistrationConfig(
    stages=(Stage(4, 2), Stage(2, 2, spacing=8), Stage(1, 1, spacing=4)), multistart="never", intersubject="never"
)
SAME = 1e-3  # mm


def masks(fixed: MetaTensor, moving: MetaTensor) -> dict[str, MetaTensor]:
    return {f"{role}_mask": (x > 0.1).float() for role, x in (("fixed", fixed), ("moving", moving))}


def moved(x: MetaTensor, there: There) -> MetaTensor:
    return MetaTensor(there(x.as_tensor()), affine=x.affine)


def with_hole(x: MetaTensor) -> MetaTensor:
    out = x.clone()
    out[0, 3:8, 4:9, 5:10] = torch.nan
    return out


def plain_3d(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    return {"fixed": fixed, "moving": moving}


def images_there(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    return {"fixed": moved(fixed, there), "moving": moved(moving, there)}


def plane(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(PLANE, PLANE)
    return {"fixed": fixed, "moving": moving, **masks(fixed, moving)}


def masked(there: There) -> dict[str, Any]:
    options = plain_3d(there)
    return options | masks(options["fixed"], options["moving"])


def hole_and_mask_of_the_host(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    return {"fixed": moved(with_hole(fixed), there), "moving": moved(with_hole(moving), there), **masks(fixed, moving)}


def hole_and_mask_there(there: There) -> dict[str, Any]:
    fixed, moving, _ = pair(SMALL, THIN)
    mask = {name: moved(x, there) for name, x in masks(fixed, moving).items()}
    return {"fixed": with_hole(fixed), "moving": with_hole(moving), **mask}


def matrix_there(there: There) -> dict[str, Any]:
    return plain_3d(there) | {"initial": there(torch.from_numpy(offset([1.0, -2.0, 0.5])))}


def matrix_with_gradient(there: There) -> dict[str, Any]:
    return plain_3d(there) | {"initial": there(torch.from_numpy(offset([1.0, -2.0, 0.5]))).requires_grad_()}


def field_there(there: There) -> dict[str, Any]:
    fixed, moving, truth = pair(SMALL, THIN)
    return {"fixed": fixed, "moving": moving, "initial": there(truth)}


def velocity_there(there: There) -> dict[str, Any]:
    fixed, moving, truth = pair(SMALL, THIN)
    return {"fixed": fixed, "moving": moving, "initial_velocity": there(truth / 4)}


def velocity_of_the_host(there: There) -> dict[str, Any]:
    return velocity_there(lambda x: x)


def own_module(there: There) -> dict[str, Any]:
    return plain_3d(there) | {"similarity": nn.L1Loss()}


def many_starts(there: There) -> dict[str, Any]:
    """From so far away that the search finds another start."""
    fixed, moving, _ = pair(PLANE, PLANE)
    start = np.eye(3)
    start[0, 2] = 30
    stages = (Stage(4, 3), Stage(2, 1, spacing=8))
    return {"fixed": fixed, "moving": moving, "initial": start, "preset": changed(stages=stages, multistart="always")}


def two_people(there: There) -> dict[str, Any]:
    """Images that have nothing to do with each other."""
    fixed, _, _ = pair(SMALL, SMALL)
    noise = torch.nn.functional.avg_pool3d(torch.rand(1, *SMALL.shape, generator=torch.Generator().manual_seed(1)), 3, 1, 1)
    config = changed(stages=(Stage(4, 1), Stage(4, 2, spacing=16), Stage(2, 1, spacing=8)), intersubject="auto")
    return {"fixed": fixed, "moving": image(noise[0].numpy(), SMALL), "preset": config}


def undone(there: There) -> dict[str, Any]:
    """Long steps next to a perfect fit."""
    same = image(anatomy(SMALL.points()), SMALL)
    return {"fixed": same, "moving": same, "preset": changed(stages=(Stage(2, 12), Stage(2, 6, 8, learning_rate=0.5)))}


def changed(**settings: Any) -> RegistrationConfig:
    return dataclasses.replace(CONFIG, **settings)


CASES = [plain_3d, images_there, plane, masked, hole_and_mask_of_the_host, hole_and_mask_there, matrix_there]
CASES += [matrix_with_gradient, field_there, velocity_there, velocity_of_the_host, own_module, many_starts, two_people, undone]
TOLD = {"many_starts": "from another start", "two_people": "as between two people", "undone": "was undone"}


@pytest.fixture
def same_portions(monkeypatch) -> None:
    """The CPU works in portions as large as a GPU's: the order of sums is then no difference between the two."""
    for name, module in list(sys.modules.items()):
        if name.startswith("monai_locor."):
            for sizes in list(vars(module).values()):
                if isinstance(sizes, dict) and set(sizes) == {"cpu", "cuda"}:
                    monkeypatch.setitem(sizes, "cpu", sizes["cuda"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_result_is_the_cpus(cuda, same_portions, case, caplog):
    with caplog.at_level(logging.INFO, logger="monai_locor"):
        there = registered(case(lambda x: x.to("cuda")), "cuda")
        assert TOLD.get(case.__name__, "") in caplog.text
    assert cuda.record.launches["grid_sampler_3d"] + cuda.record.launches["grid_sampler_2d"] > 4
    assert there.device.startswith("cuda")
    agree(there, registered(case(lambda x: x), "cpu"))
    assert {name: x.device for name, x in tensors(there) if x.device.type != "cpu"} == {}


def registered(options: dict[str, Any], device: str) -> RegistrationResult:
    return register(**{"preset": CONFIG, "progress": False, "device": device, **options})


def agree(there: RegistrationResult, here: RegistrationResult) -> None:
    for name in ("forward_mm", "inverse_mm"):
        a, b = getattr(there, name), getattr(here, name)
        assert float((a - b).norm(dim=0).max()) < SAME and float(b.std()) > 0.1, name
    np.testing.assert_allclose(there.affine, here.affine, atol=1e-4)
    for name in ("warped_moving", "warped_fixed", "fixed_image", "moving_image"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), atol=1e-3, rtol=1e-3, equal_nan=True)
    for a, b in zip(there.history, here.history, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)


def tensors(value: Any, name: str = "result") -> Iterator[tuple[str, torch.Tensor]]:
    """All that a result holds, with where it was found."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from tensors(item, f"{name}[{i}]")


def test_the_random_state_of_the_device_is_left_alone(cuda, monkeypatch):
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    registered(plane(lambda x: x), "cuda")
    assert not seeds and not cuda.record.draws
