# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Deformations restricted to some axes of the fixed image: nothing moves along the others, however the voxels are stored."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from monai_locor import InputError, RegistrationConfig, register, register_batch
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import reorder, to_voxels, warp
from monai_locor.metrics import inverse_consistency
from monai_locor.networks.composition import COMPOSITIONS
from monai_locor.registration import Stage
from monai_locor.registration.batch_group import partition
from monai_locor.registration.optimizer import DampedAdam, ParameterGroup
from monai_locor.registration.restriction import parsed_axes

from ..parameters import mostly_slow
from ..phantoms import CUBE, ORDERS, PLANE, anatomy, grid_of, image, other_modality, pair, turned
from .short_runs import TINY, difference, engine_of, inner, run

IN_PLANE = dataclasses.replace(TINY, restrict_deformation="1x1x0", affine=False, initialization="world", intersubject="never")
SMALL = grid_of((16, 14, 12), (3.0, 3.0, 4.0))


def components(result) -> torch.Tensor:
    """Largest displacement of each direction along each axis of the fixed image, ``(2, D)``, voxels; for an identity affine."""
    fields = to_voxels(result.forward_mm, result.fixed_grid), to_voxels(result.inverse_mm, result.fixed_grid)
    return torch.stack([field.abs().flatten(1).amax(1) for field in fields])


class TestVelocity:
    @pytest.mark.parametrize("composition", COMPOSITIONS)
    @pytest.mark.parametrize("free", [(True, False, True), (False, False, True)], ids=str)
    def test_displacements_are_exactly_zero(self, composition, free):
        made = [
            COMPOSITIONS[composition](turned(0.3, (2.0, 3.0, 2.5), (12, 10, 14)), 8.0, 3.0, 6.0, free=free) for _ in range(2)
        ]
        torch.manual_seed(3)
        for velocity in made:
            with torch.no_grad():
                velocity.coefficients.copy_(
                    0.5 * torch.randn_like(velocity.coefficients) * torch.tensor(free).view(-1, 1, 1, 1)
                )
        made[1].set_base(torch.randn(3, 12, 10, 14))  # moves along all axes
        made[1].take(made[0])
        found = made[1]()
        for axis, moves in enumerate(free):
            assert bool(found[:, axis].any()) == moves
            assert bool(made[1].base[axis].any()) == moves

    def test_other_axes_have_no_gradient(self):
        velocity = COMPOSITIONS["single"](SMALL, 8.0, 3.0, 6.0, free=(True, True, False))
        velocity([1]).sum().backward()
        assert velocity.coefficients.grad[:2].any() and not velocity.coefficients.grad[2].any()

    def test_steps_are_as_long_as_without_the_axes(self):
        """The typical gradient, which damps the steps, is that of the free axes."""
        gradient, ends = torch.randn(4, 30), []
        for active in (2, 4):
            tensor = torch.nn.Parameter(torch.zeros(active, 30))
            whole = torch.cat((gradient[:2], torch.zeros(active - 2, 30)))
            optimizer = DampedAdam([ParameterGroup([tensor], 0.1, damping=1.0, active=2 / active)], 5)
            for _ in range(5):
                tensor.grad = whole.clone()
                optimizer.step(optimizer.gradient())
            ends.append(tensor.detach()[:2])
            assert not tensor.detach()[2:].any()
        torch.testing.assert_close(*ends)


class TestRegistration:
    @pytest.mark.parametrize("composition", COMPOSITIONS)
    def test_slices_stay_where_they_are(self, composition):
        fixed, moving, _ = pair(SMALL, SMALL)
        result = run(fixed, moving, dataclasses.replace(IN_PLANE, composition=composition))
        found = components(result)
        assert not found[:, 2].any() and (found[:, :2] > 0.1).all()

    def test_in_a_plane_with_an_oblique_grid(self):
        grid = turned(0.4, (1.5, -1.5), (48, 44))
        fixed, moving, _ = pair(grid, grid)
        found = components(run(fixed, moving, dataclasses.replace(IN_PLANE, restrict_deformation=(0, 1))))
        assert (found[:, 0] < 1e-4).all() and (found[:, 1] > 0.1).all()

    def test_the_affine_is_not_restricted(self):
        fixed, moving, _ = pair(SMALL, SMALL)
        result = run(fixed, moving, dataclasses.replace(IN_PLANE, affine=True))
        assert abs(result.affine[2, 3]) > 0.1
        points = torch.from_numpy(SMALL.points()).movedim(-1, 0)
        there = points + result.forward_mm
        affine = torch.from_numpy(result.affine)
        before = torch.tensordot(torch.linalg.inv(affine[:3, :3]), there - affine[:3, 3].view(-1, 1, 1, 1), dims=1)
        largest = (before - points).abs().flatten(1).amax(1)
        assert largest[2] < 1e-4 and (largest[:2] > 0.1).all()

    @pytest.mark.parametrize("order", mostly_slow(ORDERS[5::7]), ids=str)
    def test_the_order_of_the_axes_does_not_matter(self, order):
        fixed, moving, _ = pair(SMALL, SMALL)
        config = dataclasses.replace(IN_PLANE, affine=True, restrict_deformation=(0, 1, 1))
        expected = run(fixed, moving, config)
        stored = image(reorder(fixed.as_tensor(), *order), SMALL.reordered(*order))
        axes = tuple(config.restrict_deformation[axis] for axis in order[0])
        found = run(stored, moving, dataclasses.replace(config, restrict_deformation=axes))
        assert torch.equal(found.forward_mm, reorder(expected.forward_mm, *order))
        assert torch.equal(found.inverse_mm, expected.inverse_mm)

    def test_all_axes_are_no_restriction(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        found = [run(fixed, moving, dataclasses.replace(TINY, restrict_deformation=each)) for each in (None, "1x1")]
        assert torch.equal(found[0].forward_mm, found[1].forward_mm)

    @pytest.mark.slow
    def test_a_deformation_in_the_slices_is_recovered(self):
        truth = random_diffeomorphism(CUBE, 4, rotation_deg=0, translation_mm=0, elastic_rms_mm=2, smoothing_mm=10)
        truth[2] = 0
        moved = CUBE.points() + truth.movedim(0, -1).double().numpy()
        images = image(other_modality(anatomy(moved)), CUBE), image(anatomy(CUBE.points()), CUBE)
        stages = (Stage(2, 30, spacing=12, learning_rate=0.08), Stage(2, 40, spacing=8, learning_rate=0.08))
        result = run(*images, dataclasses.replace(IN_PLANE, stages=stages, decay_end=0.02))
        left, before = (difference(field, truth, CUBE, 0.5) for field in (result.forward_mm, torch.zeros_like(truth)))
        assert left < 0.3 * before, (left, before)
        assert not components(result)[:, 2].any() and result.jacobian["folding_percent"] == 0
        error = inverse_consistency(result.forward_mm, CUBE, result.inverse_mm, CUBE, inner(CUBE))
        assert float(error.quantile(0.99)) < 0.1


class TestState:
    def test_it_is_part_of_the_saved_state(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        config = dataclasses.replace(IN_PLANE, restrict_deformation="1x0", stages=(Stage(4, 2, spacing=16),))
        whole = run(fixed, moving, config, resume=tmp_path)
        again = run(fixed, moving, config, resume=tmp_path)
        assert torch.equal(whole.forward_mm, again.forward_mm) and not components(again)[:, 1].any()
        with pytest.raises(InputError, match=r"is the state of another registration .*restrict_deformation"):
            run(fixed, moving, dataclasses.replace(config, restrict_deformation="0x1"), resume=tmp_path)

    def test_it_is_repeated_from_the_record(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        result = run(fixed, moving, dataclasses.replace(IN_PLANE, restrict_deformation="1x0"))
        assert RegistrationConfig.of(result.config.to_dict()).restrict_deformation == (1, 0)
        result.save(tmp_path)
        assert type(result).load(tmp_path, fixed=fixed, moving=moving).config == result.config


class TestBatch:
    def test_results_are_those_of_single_registrations(self):
        """Also of an image that is stored in another order, whose steps are not shared."""
        fixed, moving, _ = pair(SMALL, SMALL)
        order = (1, 0, 2), (False, False, False)
        other = image(reorder(fixed.as_tensor(), *order), SMALL.reordered(*order))
        config = dataclasses.replace(IN_PLANE, restrict_deformation="1x0x0", region="image")
        found = register_batch([fixed, fixed, other], [moving] * 3, preset=config, device="cpu", progress=False)
        for result, each in zip(found, (fixed, fixed, other), strict=True):
            expected = run(each, moving, config)
            assert float((result.forward_mm - expected.forward_mm).abs().max()) < 0.02  # mm
            assert components(result)[0, 0] > 0.1 and not components(result)[0, 1:].any()
        engines = [engine_of((each, moving), config) for each in (fixed, fixed, other)]
        for engine in engines:
            engine.enter(config.stages[-1])
        assert sorted(map(len, partition(engines))) == [1, 2]


class TestInput:
    def test_the_setting(self):
        for given in ("1x1x0", "1X1X0", [1, 1, 0], (1.0, 1.0, 0.0)):
            assert parsed_axes(given) == (1, 1, 0)
        assert RegistrationConfig(restrict_deformation=[1, 0]).restrict_deformation == (1, 0)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("1x1x0", "restrict_deformation 1x1x0: has 3 values, the fixed image 2 axes; give 1 for each"),
            ("0x0", "leaves no axis to deform along; use transform affine"),
            ([1, 0.5], "there are no weights in between"),
        ],
    )
    def test_refused(self, setting, message):
        fixed, moving, _ = pair(PLANE, PLANE)
        with pytest.raises(InputError, match=message) as error:
            register(fixed, moving, preset={"restrict_deformation": setting}, device="cpu", progress=False)
        assert "\n" not in str(error.value)

    def test_without_a_deformation_it_is_refused(self):
        with pytest.raises(InputError, match="no deformation with transform 'rigid'"):
            RegistrationConfig(restrict_deformation="1x0", transform="rigid")

    def test_an_initial_deformation_must_agree(self):
        fixed, moving, truth = pair(SMALL, SMALL)
        bump = torch.zeros_like(truth)
        bump[:, 5:9, 5:9, 4:8] = 2.0
        for given in ({"initial": warp(bump, SMALL, None, SMALL)}, {"initial_velocity": bump}):
            with pytest.raises(InputError, match=r"initial deformation moves by up to .* mm along axis 3 of the fixed image"):
                run(fixed, moving, IN_PLANE, **given)
        bump[2] = 0
        kept = run(fixed, moving, dataclasses.replace(IN_PLANE, stages=(Stage(2, 0, spacing=8),)), initial_velocity=bump)
        assert not components(kept)[:, 2].any() and float(kept.forward_mm.abs().max()) > 0.5
