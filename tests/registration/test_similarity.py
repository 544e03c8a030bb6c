# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Any measure drives the engine: by name, with its options, or a module of the caller's."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
from itertools import product

import numpy as np
import pytest
import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss, MaskedLoss
from torch import nn

from monai_locor import InputError, RegistrationConfig
from monai_locor.geometry import reorder
from monai_locor.losses import LocalLearnedBasisCRLoss, LocalNCCLoss, MutualInformationLoss
from monai_locor.registration import PRESETS, InitialLosses, Stage, optimize, pyramid
from monai_locor.registration.similarity import CUSTOM_SIMILARITY, SIMILARITIES, make_similarity

from ..parameters import mostly_slow
from ..phantoms import CUBE, ORDERS, PLANE, anatomy, image, pair
from .short_runs import SHORT, TINY, engine_of, errors, run

OTHERS = [name for name in SIMILARITIES if name != "locor"]
OPTIONS = {
    "locor": {"degree": 2},
    "mutual_information": {"num_bins": 16, "rescale": True, "quantile": 0.02},
    "normalized_mutual_information": {"kernel_type": "spline"},
    "correlation_ratio": {"num_bins": 16},
    "local_parzen_cr": {"num_patches": 40, "patch_size": 5},
    "srwcr": {"spacing": 3},
    "local_ncc": {"kernel_type": "gaussian", "stride": 2},
    "mind_ssc": {"radius": 1},
}
ONE_STEP = dataclasses.replace(TINY, stages=(Stage(2, 1, spacing=8, learning_rate=0.16),))


def refusal(**settings) -> str:
    with pytest.raises(InputError) as caught:
        RegistrationConfig.of(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kind(similarity) -> str:
    """Names a test."""
    return similarity if isinstance(similarity, str) else getattr(similarity, "__name__", type(similarity).__name__)


class Watched(nn.Module):
    """Squared difference that remembers, for all copies, what it was called with."""

    calls: list[tuple[torch.Tensor, ...]]

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.scale = in_channels, nn.Parameter(torch.ones(()))

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        Watched.calls.append((pred.detach(), target, mask))
        return (self.scale * pred[:, :1] - target[:, :1]).square().mean()


@pytest.fixture(autouse=True)
def forget() -> None:
    Watched.calls = []


class TestSettings:
    @pytest.mark.parametrize("name", list(SIMILARITIES))
    def test_json_and_back(self, name):
        config = RegistrationConfig(similarity=name, similarity_options=OPTIONS[name])
        assert RegistrationConfig.of(json.loads(json.dumps(config.to_dict()))) == config
        assert hash(config) == hash(dataclasses.replace(config)) and config != RegistrationConfig(similarity=name)

    def test_options_are_kept_as_plain_values_of_their_own(self):
        given = {"kernel_sigma": (1.0, 2.0, 3.0)}
        config = RegistrationConfig(similarity="local_ncc", similarity_options=given)
        given["stride"] = 2
        assert config.similarity_options == {"kernel_sigma": [1.0, 2.0, 3.0]}

    def test_options_for_two_axes(self):
        config = RegistrationConfig(similarity="local_ncc", similarity_options={"kernel_sigma": [1, 2]})
        assert make_similarity(config, 2).grid.sigma == (1, 2)
        with pytest.raises(InputError, match=r"local_ncc for 3-D images"):
            make_similarity(config, 3)

    @pytest.mark.parametrize("name", list(SIMILARITIES))
    def test_the_weight_of_the_bending_energy_goes_with_the_measure(self, name):
        config = RegistrationConfig(similarity=name)
        assert config.bending_weight is None and config.effective_bending_weight == SIMILARITIES[name].bending_weight
        assert dataclasses.replace(config, bending_weight=0).effective_bending_weight == 0

    def test_the_weights_of_the_default_measure(self):
        assert {name: preset.effective_bending_weight for name, preset in PRESETS.items()} == {
            "default": 120,
            "fast": 120,
            "draft": 120,
            "intersubject": 20,
            "paper": 400 / 18,
        }
        assert [RegistrationConfig(form=form).effective_bending_weight for form in ("normalized", "robust")] == [20, 20]

    def test_another_measure_leaves_options_behind(self):
        config = RegistrationConfig(similarity="srwcr", similarity_options={"spacing": 3}, bending_weight=7)
        assert config.with_similarity("srwcr") == config
        assert config.with_similarity("mind_ssc") == RegistrationConfig(similarity="mind_ssc", bending_weight=7)
        assert config.with_similarity("srwcr", {"spacing": 5}).similarity_options == {"spacing": 5}

    def test_unknown_names_are_listed_with_the_valid_ones(self):
        message = refusal(similarity="mutual_info")
        assert "mutual_info'" in message and all(name in message for name in SIMILARITIES)
        message = refusal(similarity="srwcr", similarity_options={"bins": 3, "spacing": 3})
        assert "bins" in message and "num_bins" in message and "spacing_" not in message and "generator" not in message
        assert "has degree" in refusal(similarity_options={"num_basis": 3})  # a setting of its own

    @pytest.mark.parametrize(
        ("name", "options", "told"),
        [
            ("srwcr", {"spacing": 0}, "spacing"),
            ("mind_ssc", {"radius": -1}, "radius"),
            ("mutual_information", {"num_bins": "x"}, ""),
            ("local_ncc", {"kernel_type": "round"}, "round"),
            ("local_ncc", {"stride": {1, 2}}, "plain"),
        ],
    )
    def test_bad_options_are_refused_before_any_work(self, name, options, told):
        message = refusal(similarity=name, similarity_options=options)
        assert "similarity_options" in message and told in message

    def test_what_makes_a_measure_is_no_option(self):
        assert "form" in refusal(similarity="normalized_mutual_information", similarity_options={"form": "mutual_information"})
        assert make_similarity(RegistrationConfig(similarity="normalized_mutual_information"), 3).form == "normalized"

    def test_the_default_measure_has_the_settings(self):
        config = RegistrationConfig(num_basis=3, eps=1e-3, form="normalized", derivative="none", kernel_sigma=1.5)
        loss = make_similarity(config, 3, torch.Generator())
        assert isinstance(loss, LocalLearnedBasisCRLoss) and loss.spatial_dims == 3 and loss.in_channels == 1
        assert (loss.basis.num_basis, loss.eps, loss.form, loss.kernel_sigma) == (3, 1e-3, "normalized", (1.5, 1.5, 1.5))
        assert not loss.rescale and loss.generator is not None


class TestEngine:
    @pytest.mark.parametrize("name", OTHERS)
    def test_the_derivative_is_not_even_computed(self, images, name, monkeypatch):
        monkeypatch.setattr(pyramid, "derivative_magnitude", lambda *_: pytest.fail("not needed"))
        engine = engine_of(images, ONE_STEP.with_similarity(name, OPTIONS[name]))
        engine.enter(ONE_STEP.stages[0])
        value, _ = engine.step()
        assert value.isfinite() and {x.reference.shape[1] for x in engine.levels.values()} == {1}
        assert engine.velocity.coefficients.abs().max() > 0 and engine.learned_bases() is None

    def test_ranges_are_kept_for_a_stage(self, images):
        config = TINY.with_similarity("mutual_information", {"rescale": True, "quantile": 0.05})
        engine = engine_of(images, config)
        seen = []
        for stage in config.stages:
            engine.enter(stage)
            assert all(loss._frozen is None for loss in engine.losses)
            for _ in range(2):
                engine.step()
                seen.append(engine.losses[0]._frozen)
        assert seen[0] is seen[1] and seen[2] is seen[3] and seen[1] is not seen[2]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["locor", "local_parzen_cr", "mind_ssc"])  # learns, draws, does neither
    def test_no_memory_is_held_between_steps(self, images, name):
        engine = engine_of(images, TINY.with_similarity(name))
        engine.enter(TINY.stages[1])
        held = []
        for _ in range(3):
            engine.step()
            gc.collect()
            held.append(sum(x.numel() for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter)))
        assert held[1] == held[2]

    @pytest.mark.parametrize("name", ["local_parzen_cr", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
    def test_same_seed_same_bytes(self, images, name):
        config = ONE_STEP.with_similarity(name, OPTIONS[name])
        torch.manual_seed(1)
        first = run(*images[:2], config, seed=3)
        torch.manual_seed(2)
        second = run(*images[:2], config, seed=3)
        assert first.forward_mm.numpy().tobytes() == second.forward_mm.numpy().tobytes()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", list(SIMILARITIES))
    def test_every_measure_aligns(self, images, name):
        found = run(*images[:2], SHORT.with_similarity(name))
        before, after = errors(found, images[2])
        assert after < before * 0.4, (before, after)
        assert found.jacobian["folding_percent"] == 0 and found.config.similarity == name

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["locor", "local_parzen_cr", "mind_ssc"])
    def test_measures_align_in_a_plane(self, name):
        fixed, moving, truth = pair(PLANE, PLANE)
        config = RegistrationConfig(stages=(Stage(2, 40), Stage(2, 40, 8, 0.16), Stage(1, 20, 4, 0.08)), similarity=name)
        before, after = errors(run(fixed, moving, config), truth)
        assert after < before * 0.5, (before, after)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("orders", "name"), list(product([(ORDERS[5], ORDERS[19]), (ORDERS[33], ORDERS[47])], ["mind_ssc", "srwcr"])), ids=str
    )
    def test_storage_order(self, images, orders, name):
        config = TINY.with_similarity(name)
        expected = run(*images[:2], config)
        stored = [image(reorder(i.as_tensor(), *o)[0].numpy(), CUBE.reordered(*o)) for i, o in zip(images, orders)]
        found = run(*stored, config)
        assert torch.equal(found.forward_mm, reorder(expected.forward_mm, *orders[0]))
        assert torch.equal(found.inverse_mm, reorder(expected.inverse_mm, *orders[1]))
        assert float(found.forward_mm.std()) > 0.1


class TestOwn:
    """Modules and functions that make them, in Python only."""

    def test_a_name(self, images):
        assert run(*images[:2], ONE_STEP, similarity="mind_ssc").config == ONE_STEP.with_similarity("mind_ssc")
        with pytest.raises(InputError, match="must be one of locor"):
            run(*images[:2], similarity="mind")

    @pytest.mark.parametrize(
        "similarity",
        mostly_slow(
            [GlobalMutualInformationLoss(), LocalNCCLoss, LocalNormalizedCrossCorrelationLoss(), MaskedLoss(nn.MSELoss())], 2
        ),
        ids=kind,
    )
    def test_losses_of_monai_and_classes(self, images, similarity):
        found = run(*images[:2], ONE_STEP, similarity=similarity)
        assert found.config.similarity == CUSTOM_SIMILARITY and np.isfinite(found.history[0]["loss"]).all()
        assert float(found.forward_mm.std()) > 0

    @pytest.mark.slow
    @pytest.mark.parametrize("similarity", [GlobalMutualInformationLoss(), LocalNormalizedCrossCorrelationLoss()], ids=kind)
    def test_losses_of_monai_align(self, similarity):
        truth = pair()[2]
        moved = CUBE.points() + truth.movedim(0, -1).double().numpy()
        fixed = image(np.tanh(1 - anatomy(moved)), CUBE)  # monotonic, for the sake of cross-correlation
        before, after = errors(run(fixed, pair()[1], SHORT, similarity=similarity), truth)
        assert after < before * 0.5, (before, after)

    def test_what_a_module_is_given(self, images):
        mask = image(np.ones(CUBE.shape) * (np.arange(CUBE.shape[0]) > 3)[:, None, None], CUBE)
        given = Watched()
        found = run(*images[:2], ONE_STEP, similarity=given, fixed_mask=mask)
        (pred, target, weight), (back, still, _) = Watched.calls
        assert pred.shape == target.shape == weight.shape and pred.shape[:2] == (1, 1) and back.shape == still.shape
        assert 0 < float(weight.mean()) < 1 and given.scale.item() == 1 and found.basis is None

    def test_each_direction_has_a_copy_that_learns(self, images):
        given = Watched()
        engine = optimize(engine_of(images, TINY, losses=InitialLosses(similarity=given)))
        scales = [loss.scale.item() for loss in engine.losses]
        assert given.scale.item() == 1 and len({1.0, *scales}) == 3

    def test_two_channels_on_request(self, images):
        run(*images[:2], ONE_STEP, similarity=Watched(in_channels=2))
        assert Watched.calls[0][0].shape[1] == 2 and Watched.calls[0][1].shape[1] == 1
        with pytest.raises(InputError, match="in_channels 2"):
            run(*images[:2], dataclasses.replace(ONE_STEP, derivative="none"), similarity=Watched(in_channels=2))
        with pytest.raises(InputError, match="in_channels 3"):
            run(*images[:2], ONE_STEP, similarity=Watched(in_channels=3))

    @pytest.mark.slow
    def test_a_module_of_ours_by_hand_is_the_one_by_name(self, images):
        named = run(*images[:2], dataclasses.replace(TINY, similarity="mutual_information", bending_weight=5))
        own = run(*images[:2], dataclasses.replace(TINY, bending_weight=5), similarity=MutualInformationLoss(rescale=False))
        assert torch.equal(named.forward_mm, own.forward_mm)

    def test_a_learned_basis_of_ones_own_comes_back(self, images):
        own = LocalLearnedBasisCRLoss(in_channels=1, num_basis=2, rescale=False)
        found = run(*images[:2], ONE_STEP, similarity=own)
        assert found.basis is not None and (found.basis.num_basis, found.basis.derivative) == (2, "none")
        assert torch.equal(found.forward_mm, run(*images[:2], ONE_STEP, similarity=own).forward_mm)  # draws by the seed

    def test_masks_that_are_not_taken_are_told(self, images, caplog):
        mask = image(np.ones(CUBE.shape), CUBE)
        with caplog.at_level(logging.WARNING, logger="monai_locor"):
            run(*images[:2], ONE_STEP, similarity=nn.MSELoss(), fixed_mask=mask)
        assert "MSELoss takes no mask" in caplog.text

    def test_settings_of_such_a_result_need_the_module_again(self, images):
        config = run(*images[:2], ONE_STEP, similarity=nn.MSELoss()).config
        assert RegistrationConfig.of(json.loads(json.dumps(config.to_dict()))) == config
        with pytest.raises(InputError, match="pass it again"):
            run(*images[:2], config)

    @pytest.mark.parametrize(
        ("similarity", "told"),
        [(3, "int"), (lambda dims: 3, "int"), (nn.MSELoss(reduction="none"), "one number"), (nn.ReLU(), "positional")],
    )
    def test_what_cannot_be_one(self, images, similarity, told):
        with pytest.raises((InputError, TypeError), match=told):
            run(*images[:2], ONE_STEP, similarity=similarity)

    def test_an_initial_basis_is_for_the_default_measure(self, images):
        basis = run(*images[:2], ONE_STEP).basis
        with pytest.raises(InputError, match="mind_ssc"):
            run(*images[:2], ONE_STEP, similarity="mind_ssc", initial_basis=basis)


@pytest.mark.usefixtures("forked")
class TestTwoProcesses:
    def test_what_cannot_travel_is_refused(self, images):
        with pytest.raises(InputError, match="can be imported"):
            run(*images[:2], ONE_STEP, device=None, devices=["cpu", "cpu"], similarity=lambda dims: nn.MSELoss())

    @pytest.mark.slow
    @pytest.mark.parametrize("similarity", ["local_parzen_cr", LocalLearnedBasisCRLoss(num_basis=3, rescale=False)], ids=kind)
    def test_they_agree_with_one(self, images, similarity):
        one = run(*images[:2], TINY, similarity=similarity)
        two = run(*images[:2], TINY, similarity=similarity, device=None, devices=["cpu", "cpu"])
        assert float((one.forward_mm - two.forward_mm).norm(dim=0).quantile(0.95)) < 0.05
        assert (two.basis is None) == (one.basis is None)
        if one.basis is not None:
            torch.testing.assert_close(dict(two.basis.inverse), dict(one.basis.inverse), atol=0.02, rtol=0.05)
