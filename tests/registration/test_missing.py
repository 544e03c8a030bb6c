# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor import RegistrationResult, register_batch
from monai_locor.registration.missing import estimate_missing, missing_probability
from monai_locor.registration.start.prepare import smoothed
from monai_locor.transforms import derivative_magnitude
from tests.phantoms import grid_of, pair
from tests.registration.short_runs import TINY, difference, engine_of, run

SIGMA = [1.5, 1.5, 1.5]
SMALL = grid_of((16, 14, 14), (2.5,) * 3)
HOLE = (slice(None), slice(8, 16), slice(10, 18), slice(9, 17))


def related(seed: int = 0, size: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
    """A random texture with background, and a nonlinear function of it with noise, ``(1, size, size, size)``."""
    generator = torch.Generator().manual_seed(seed)
    texture = smoothed(torch.randn(1, size, size, size, generator=generator), SIGMA)
    texture = 0.15 + 0.7 * (texture - texture.min()) / (texture.max() - texture.min())
    other = (1 - texture) ** 2 + 0.02 * torch.randn(texture.shape, generator=generator)
    texture[:, :3], other[:, :3] = 0, 0
    return texture, other.clamp(0, 1)


def with_hole(image: torch.Tensor, value: float = 0.15) -> torch.Tensor:
    out = image.clone()
    out[HOLE] = value
    return out


def probability(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return missing_probability(pred[:, None], target[:, None], torch.ones_like(pred), SIGMA)


def area_under_curve(score: torch.Tensor) -> float:
    """Of a score for voxels in the hole against all others."""
    inside = torch.zeros_like(score, dtype=torch.bool)
    inside[HOLE] = True
    ranks = score.flatten().argsort().argsort().double()[inside.flatten()] + 1
    count = len(ranks)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (score.numel() - count)))


class TestProbability:
    @pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
    def test_a_constant_hole_is_found(self, value):
        pred, target = related()
        found = probability(pred, with_hole(target, value))
        assert area_under_curve(found) > 0.93
        assert found[HOLE].mean() > 0.5

    def test_a_flat_hole_is_found_by_the_derivative_where_only_edges_are_related(self):
        generator = torch.Generator().manual_seed(0)
        amplitude = torch.ones(1, 28, 28, 28)
        amplitude[:, :, 20:] = 0.05  # both images are flat there
        noise = (smoothed(torch.randn(amplitude.shape, generator=generator), [0.8] * 3) for _ in range(2))
        pred, target = (0.5 + 0.5 * amplitude * x for x in noise)
        target = with_hole(target, 0.5)
        features = [torch.stack((x, derivative_magnitude(x, np.eye(3)).sqrt()), 1) for x in (pred, target)]
        found = missing_probability(*features, torch.ones_like(pred), SIGMA)
        assert area_under_curve(found) > area_under_curve(probability(pred, target)) + 0.1
        assert area_under_curve(found) > 0.9

    def test_an_intact_pair_has_no_missing_tissue(self):
        assert (probability(*related()) > 0.5).float().mean() < 0.01

    def test_symmetric_in_the_images(self):
        pred, target = related()
        target = with_hole(target)
        torch.testing.assert_close(probability(pred, target), probability(target, pred), atol=1e-3, rtol=0)

    def test_independent_of_the_order_of_axes(self):
        pred, target = related()
        images = pred, with_hole(target)
        swapped = probability(*(x.permute(0, 3, 1, 2) for x in images))
        torch.testing.assert_close(swapped, probability(*images).permute(0, 3, 1, 2), atol=1e-3, rtol=0)

    def test_zero_weight_means_no_evidence(self):
        pred, target = related()
        weight = torch.ones_like(pred)
        weight[:, :, :, 14:] = 0
        broken = target.clone()
        broken[:, :, :, 14:] = torch.rand(broken[:, :, :, 14:].shape, generator=torch.Generator().manual_seed(1))
        first, second = (missing_probability(pred[None], t[None], weight, SIGMA) for t in (target, broken))
        assert torch.equal(first, second)
        assert not first[:, :, :, 14:].any()

    @pytest.mark.parametrize("shape", [(2, 1, 1, 1, 1), (1, 2, 1, 1, 1)])
    def test_channels_and_features_are_averaged(self, shape):
        pred, target = related()
        target = with_hole(target)
        both = missing_probability(pred.repeat(shape), target.repeat(shape), torch.ones_like(pred), SIGMA)
        torch.testing.assert_close(both, probability(pred, target))

    def test_only_the_intensity_tells_the_background(self):
        pred, target = related()
        features = [torch.stack((0 * x, x), 1) for x in (pred, with_hole(target))]
        assert not missing_probability(*features, torch.ones_like(pred), SIGMA).any()

    def test_constant_images(self):
        zero = torch.zeros(1, 1, 8, 8)
        assert not missing_probability(zero, zero, zero[0] + 1, SIGMA[:2]).any()


class TestEstimate:
    def test_small_places_are_dropped_and_the_volume_is_that_of_the_places(self):
        fixed, moving, _ = pair(SMALL, SMALL)
        engine = engine_of((fixed, moving), TINY)
        for missing in estimate_missing(engine):
            assert missing.probability.shape == missing.found.shape
            assert bool((missing.found <= missing.probability + 1e-6).all())
            assert (missing.ml > 0) == bool((missing.found > 0.5).any())

    def test_the_weights_are_multiplied_once(self):
        fixed, moving, _ = pair(SMALL, SMALL)
        mask = torch.full(fixed.shape, 0.5)
        engine = engine_of((fixed, moving), TINY, masks=(mask, None))
        half, full = torch.full(fixed.shape, 0.5), torch.ones(moving.shape)
        for _ in range(2):  # later estimates replace earlier ones
            engine.weigh(half, full)
        assert float(engine.fixed.weight.max()) == float(engine.fixed.weight.min()) == 0.25
        assert torch.equal(engine.moving.weight, full)


@pytest.fixture(scope="module")
def results() -> dict[str, RegistrationResult]:
    fixed, moving, _ = pair(SMALL, SMALL)
    return {word: run(fixed, moving, dataclasses.replace(TINY, missing=word)) for word in ("never", "map")}


class TestRegistration:
    def test_the_map_does_not_change_the_transform(self, results):
        assert torch.equal(results["never"].forward_mm, results["map"].forward_mm)
        assert results["never"].missing_fixed is None
        assert results["never"].missing_ml is None

    def test_the_maps_lie_on_the_grids_and_are_saved(self, results, tmp_path):
        found = results["map"]
        assert found.missing_fixed.shape[1:] == found.fixed_grid.shape
        assert found.missing_moving.shape[1:] == found.moving_grid.shape
        assert set(found.summary()["missing_ml"]) == {"fixed", "moving"}
        found.save(tmp_path)
        loaded = RegistrationResult.load(tmp_path)
        np.testing.assert_allclose(loaded.missing_fixed, found.missing_fixed, atol=1e-6)
        assert loaded.missing_ml == found.missing_ml
        results["never"].save(tmp_path / "never")
        assert not (tmp_path / "never" / "missing_fixed.nii.gz").exists()

    @pytest.mark.slow
    def test_a_cavity_is_found_and_left_out(self):
        fixed, moving, _ = pair()
        hole = (slice(None), slice(11, 21), slice(11, 21), slice(11, 21))
        cut = fixed.clone()
        cut[hole] = fixed.max()
        stages = (*TINY.stages[:1], dataclasses.replace(TINY.stages[1], iterations=20))
        plain, left_out = (run(cut, moving, dataclasses.replace(TINY, stages=stages, missing=w)) for w in ("map", "auto"))
        assert not torch.equal(plain.forward_mm, left_out.forward_mm)
        inside, outside = left_out.missing_fixed[hole].mean(), left_out.missing_fixed.mean()
        assert inside > 3 * outside

    @pytest.mark.slow
    def test_pairs_of_a_batch_have_the_results_of_single_pairs(self):
        fixed, moving, _ = pair(SMALL, SMALL)
        cut = fixed.clone()
        cut[:, 5:10, 4:9, 4:9] = fixed.max()
        config = dataclasses.replace(TINY, missing="auto", region="image")
        found = register_batch([fixed, cut], [moving, moving], preset=config, device="cpu", progress=False)
        for image, result in zip((fixed, cut), found, strict=True):
            single = run(image, moving, config)
            assert difference(result.forward_mm, single.forward_mm, single.fixed_grid) < 0.02
            torch.testing.assert_close(result.missing_fixed, single.missing_fixed, atol=0.05, rtol=0)
