# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Real heads with what real scans have: spoilt regions, shading, lesions, and a field of view that ends too soon."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.geometry import Grid, inside, mapped_points, warp

from ..phantoms import image
from .brains import Case, average_head, ball, rotation, run, template

SPOT = (35.0, 10.0, 25.0)  # in the right hemisphere
LESION = (30.0, -20.0, 30.0)
SPACING = 5.0


@pytest.fixture(scope="module")
def case() -> Case:
    """All of the errors below are means over brain points; before, it is 8.3 mm, and 0.9 mm with nothing in the way."""
    return template(SPACING)


@pytest.fixture(scope="module")
def head(shared) -> Case:
    """Another head, with its skin and skull, at 4 mm."""
    return average_head(shared, 4.0)


def spoilt(source: MetaTensor, radius: float) -> MetaTensor:
    """Inside a ball the anatomy is what lies 15 mm above, in its own contrast: no intensity gives it away."""
    grid = Grid.of(source)
    above = torch.tensor([0.0, 0.0, 15.0]).view(3, 1, 1, 1).expand(3, *grid.shape)
    return blended(source, warp(source.as_tensor(), grid, above, grid), ball(grid, SPOT, radius).float())


def blended(source: MetaTensor, other: torch.Tensor | float, share: torch.Tensor) -> MetaTensor:
    return image(source.as_tensor() * (1 - share) + other * share, Grid.of(source))


def mask_on_another_grid(radius: float) -> MetaTensor:
    """Everything but the ball, finer, turned, and with its axes in another order."""
    turn = rotation(0.1, 0.1, -0.05)
    affine = turn @ np.array([[0, -3.2, 0, 100], [3.1, 0, 0, -130], [0, 0, 3.4, -95], [0, 0, 0, 1]])
    grid = Grid((76, 70, 66), affine)
    return image(~ball(grid, SPOT, radius)[None], grid)


def seen_by_fixed(case: Case, center: tuple[float, ...], radius: float) -> torch.Tensor:
    """Fixed voxels that the truth takes into a ball of the moving image."""
    points = case.grid.points() + case.truth.movedim(0, -1).double().numpy()
    return torch.from_numpy(np.linalg.norm(points - np.array(center), axis=-1) < radius)


@pytest.mark.slow
class TestMasks:
    """Where the image is spoilt, the rest of it says where things are; elsewhere little changes."""

    def check(self, case: Case, images: dict, role: str, where: torch.Tensor, ratio: float) -> None:
        mask = {f"{role}_mask": mask_on_another_grid(30.0)}
        # a stiff field bridges such a spot without a mask; another start moves the errors more than the seed does
        loose = {"preset": {"preset": "fast", "bending_weight": 60.0, "multistart": "never"}}
        without, masked = run(**images, **loose), run(**images, **loose, **mask)
        wrong, right = case.after(without, where), case.after(masked, where)
        assert right < 1.8 and wrong > ratio * right, (wrong, right)
        assert case.after(masked, ~where) < 1.3
        assert masked.jacobian["folding_percent"] == 0

    def test_fixed(self, case):
        images = {"fixed": spoilt(case.fixed, 30.0), "moving": case.moving}
        # two seeds came to 1.35 and 1.38 mm without the mask, and to 1.03 and 1.08 with it
        self.check(case, images, "fixed", ball(case.grid, SPOT, 30.0), ratio=1.15)

    def test_moving(self, case):
        images = {"fixed": case.fixed, "moving": spoilt(case.moving, 30.0)}
        # 2.4 mm, 1.2 and 1.4
        self.check(case, images, "moving", seen_by_fixed(case, SPOT, 30.0), ratio=1.4)

    def test_metal(self, case):
        """A signal void with a rim ten times as bright as tissue, on both sides and at different places."""
        images, options = {}, {}
        for role, source in (("fixed", case.fixed), ("moving", case.moving)):
            grid = Grid.of(source)
            rim = (ball(grid, SPOT, 22) & ~ball(grid, SPOT, 16)).float()
            images[role] = blended(blended(source, 0.0, ball(grid, SPOT, 16).float()), 10.0, rim)
            options[f"{role}_mask"] = mask_on_another_grid(26.0)
        found = run(**images, **options)
        near = ball(case.grid, SPOT, 30) | seen_by_fixed(case, SPOT, 30)
        assert case.after(found, ~near) < 1.3, case.after(found, ~near)
        assert case.after(found) < 1.6, case.after(found)


def shaded(source: MetaTensor, strength: float) -> MetaTensor:
    """A smooth factor between ``exp(-strength)`` and ``exp(strength)``."""
    wave = np.sin(Grid.of(source).points() @ np.array([1 / 50, 1 / 60, 1 / 70]))
    return image(source.as_tensor() * torch.from_numpy(np.exp(strength * wave)).float(), Grid.of(source))


@pytest.mark.slow
def test_shading(case):
    """From half to twice the signal, the other way in the moving image: within 2 mm, 0.4 voxels."""
    found = run(shaded(case.fixed, 0.7), shaded(case.moving, -0.7))
    assert case.after(found) < 2, case.after(found)


@pytest.mark.slow
class TestLesions:
    """A bright lesion of 28 mm in one image only: outside, within 1.3 mm, a quarter of a voxel (2.5 mm in a whole head)."""

    @staticmethod
    def with_lesion(source: MetaTensor) -> MetaTensor:
        distance = torch.from_numpy(np.linalg.norm(Grid.of(source).points() - np.array(LESION), axis=-1)).float()
        return blended(source, 1.2 * float(source.max()), torch.sigmoid((14 - distance) / 1.5))

    def test_moving(self, case):
        found = run(case.fixed, self.with_lesion(case.moving))
        outside = ~seen_by_fixed(case, LESION, 18)
        assert case.after(found, outside) < 1.3, case.after(found, outside)
        assert found.jacobian["folding_percent"] == 0

    def test_in_a_whole_head(self, head):
        found = run(self.with_lesion(head.fixed), head.moving)
        outside = ~ball(head.grid, LESION, 18)
        assert head.before(outside) > 6 and head.after(found, outside) < 2.5, (head.before(outside), head.after(found, outside))


def slab(source: MetaTensor) -> tuple[MetaTensor, slice]:
    """The middle third of an image along its last axis."""
    grid = Grid.of(source)
    third = grid.shape[2] // 3
    part = slice(third, 2 * third)
    box = [slice(0, grid.shape[0]), slice(0, grid.shape[1]), part]
    return image(source.as_tensor()[..., part], grid.cropped(box)), part


@pytest.mark.slow
class TestPartialOverlap:
    """A third of a head against all of it: where they meet, within 1.7 mm of the template, and 2.5 mm of a whole head."""

    def check_fixed(self, case: Case, limit: float) -> None:
        fixed, part = slab(case.fixed)
        inner = Case(fixed, case.moving, case.truth[..., part], case.mask[..., part])
        found = run(inner.fixed, inner.moving)
        assert inner.before() > 5 and inner.after(found) < limit, (inner.before(), inner.after(found))

    def check_moving(self, case: Case, limit: float) -> None:
        moving, _ = slab(case.moving)
        found = run(case.fixed, moving)
        shared = inside(mapped_points(case.grid, Grid.of(moving), case.truth), Grid.of(moving).shape)
        assert case.before(shared) > 5 and case.after(found, shared) < limit, (case.before(shared), case.after(found, shared))

    def test_slab_against_whole(self, case):
        self.check_fixed(case, 1.7)

    def test_whole_head_against_slab(self, head):
        self.check_moving(head, 2.5)
