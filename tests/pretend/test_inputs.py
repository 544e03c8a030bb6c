# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images, masks, labels and several channels may lie on the pretended device, all or some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.data.annotations import read_label
from monai_locor.io import read_image, read_mask
from monai_locor.io.images import read_labels
from monai_locor.registration import Stage
from monai_locor.registration.channels import read_channels
from monai_locor.report import write_report
from monai_locor.tensors import plain

from ..phantoms import grid_of, pair
from .agreement import elsewhere

GRID = grid_of((18, 16, 17), (3.0, 3.0, 3.0))
FIXED, MOVING, _ = pair(GRID, GRID)
FINER = pair(grid_of((20, 18, 19), (2.5, 2.5, 2.5)), GRID)[0]
LABELS = (FIXED > 0.3).float()
CONFIG = RegistrationConfig(stages=(Stage(4, 1), Stage(4, 1, spacing=16)), multistart="never", intersubject="never")
PLACES = [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")]


def on(device: str, image: MetaTensor) -> MetaTensor:
    return MetaTensor(image.as_tensor().to(device), affine=image.affine)


def with_hole(image: MetaTensor) -> MetaTensor:
    out = image.clone()
    out[0, 3:8, 4:9] = torch.nan
    return out


def registered(**options: Any) -> RegistrationResult:
    return register(**{"fixed": FIXED, "moving": MOVING, "preset": CONFIG, "progress": False, "device": "cpu", **options})


@pytest.mark.parametrize("read", [lambda x: read_image(x)[0], read_mask, read_labels, read_label])
def test_reading(cuda, read):
    found, expected = read(on("cuda", LABELS)), read(LABELS)
    assert found.dtype == expected.dtype and torch.equal(found.as_tensor().cpu(), expected.as_tensor())


def test_labels_are_read_to_the_host(cuda):
    assert read_labels(on("cuda", LABELS)).device.type == "cpu"


@pytest.mark.parametrize("places", PLACES, ids="-".join)
def test_label_maps_drive_a_registration(cuda, places):
    there = registered(labels=[on(place, LABELS) for place in places])
    assert torch.equal(there.forward_mm, registered(labels=[LABELS, LABELS]).forward_mm) and not elsewhere(there, "cpu")


@pytest.mark.parametrize("places", PLACES, ids="-".join)
@pytest.mark.parametrize("second", [MOVING, FINER, with_hole(MOVING)], ids=["same grid", "another grid", "with a hole"])
def test_channels(cuda, places, second):
    images = [with_hole(FIXED), second]
    there = read_channels([on(place, x) for place, x in zip(places, images, strict=True)], "fixed")
    for found, expected in zip(there, read_channels(images, "fixed"), strict=True):
        assert found.device.type == places[0]
        torch.testing.assert_close(plain(found).cpu(), plain(expected))


@pytest.mark.parametrize("places", PLACES, ids="-".join)
def test_a_registration_of_channels(cuda, places):
    several = [[on(place, x) for place in places] for x in (FIXED, MOVING)]
    there = registered(fixed=several[0], moving=several[1])
    assert torch.equal(there.forward_mm, registered(fixed=[FIXED] * 2, moving=[MOVING] * 2).forward_mm)
    assert not elsewhere(there, "cpu")


@pytest.mark.parametrize("places", PLACES, ids="-".join)
def test_a_report(cuda, places, tmp_path):
    pytest.importorskip("matplotlib")
    result, images = registered(), dict(zip(("fixed", "moving"), (FIXED, MOVING), strict=True))
    images |= {f"{role}_{kind}": LABELS for kind in ("mask", "labels") for role in ("fixed", "moving")}
    moved = {name: on(places[name.startswith("moving")], x) for name, x in images.items()}
    slow = {"residuals": places == PLACES[0]}
    there, here = (write_report(tmp_path / f"{n}.html", result, **x, **slow).read_text() for n, x in enumerate((moved, images)))
    assert there == here
