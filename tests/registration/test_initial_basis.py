# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A registration that starts from what another one's basis networks learned."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.errors import InputError
from monai_locor.registration import InitialLosses, RegistrationEngine, api, optimize
from monai_locor.registration.basis_pair import BasisPair

from .short_runs import NOTHING, SHORT, TINY, engine_of, errors, run


def same(a: BasisPair, b: BasisPair) -> bool:
    return all(torch.equal(x[name], y[name]) for x, y in ((a.forward, b.forward), (a.inverse, b.inverse)) for name in x)


class TestStart:
    def test_what_a_fresh_engine_holds_changes_nothing(self, images, tiny):
        """So that loading draws no number and moves nothing else."""
        fresh = engine_of(images, TINY).learned_bases()
        found = run(*images[:2], TINY, initial_basis=fresh)
        assert torch.equal(found.forward_mm, tiny.forward_mm) and torch.equal(found.inverse_mm, tiny.inverse_mm)
        assert same(found.basis, tiny.basis) and not same(found.basis, fresh)

    @pytest.mark.slow
    def test_a_basis_that_has_learned_explains_more_from_the_first_step(self, images, result):
        again = run(*images[:2], SHORT, initial_basis=result.basis)
        for stage in range(2):
            first, second = (np.array(r.history[stage]["loss"][:10]) for r in (result, again))
            assert np.all(second < first) if stage == 0 else second.mean() < first.mean()
        assert errors(again, images[2])[1] < 1.1 * errors(result, images[2])[1]

    def test_it_goes_on_learning_and_the_given_one_stays(self, images, result):
        before = [state.clone() for state in result.basis.forward.values()]
        again = run(*images[:2], TINY, initial_basis=result.basis)
        assert not same(again.basis, result.basis)
        assert all(torch.equal(a, b) for a, b in zip(before, result.basis.forward.values(), strict=True))

    @pytest.mark.slow
    def test_fixed_and_moving_exchanged_take_the_swapped_one(self, images, result):
        fixed, moving, _ = images
        losses = [
            run(moving, fixed, TINY, initial_basis=basis).history[0]["loss"][0]
            for basis in (result.basis, result.basis.swapped())
        ]
        assert losses[1] < losses[0] - 0.2

    def test_a_second_attempt_starts_from_it_again(self, images, result):
        engine = engine_of(images, TINY, losses=InitialLosses(basis=result.basis))
        engine.enter(TINY.stages[0])
        engine.step()
        assert not same(engine.learned_bases(), result.basis)
        again = RegistrationEngine(engine.start, TINY)
        assert same(again.learned_bases(), result.basis)

    def test_a_file(self, images, result, tmp_path):
        pytest.importorskip("safetensors")
        paths = result.save_basis(tmp_path / "blobs", contrasts=("plain", "cosine"))
        assert BasisPair.load(paths[0]).contrasts == ("plain", "cosine") and result.basis.contrasts is None
        held = run(*images[:2], NOTHING, initial_basis=paths[0])
        assert same(held.basis, result.basis)


class TestRefusals:
    @pytest.fixture(autouse=True)
    def no_images(self, monkeypatch):
        """A basis that does not fit must be found before the images are read."""

        def read(*args, **options) -> None:
            raise AssertionError("the images were read")

        monkeypatch.setattr(api, "load_pair", read)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"num_basis": 3}, ("num_basis 5", "num_basis 3")),
            ({"hidden_channels": (8,)}, ("hidden_channels (16, 16)", "hidden_channels (8,)")),
            ({"derivative": "none"}, ("derivative 'basis'", "derivative 'none'")),
            ({"derivative": "both"}, ("derivative 'basis'", "derivative 'both'")),
            ({"basis": "polynomial"}, ("'learned'", "'polynomial'")),
        ],
    )
    def test_settings_of_another_basis(self, images, tiny, settings, told):
        with pytest.raises(InputError) as caught:
            run(*images[:2], dataclasses.replace(TINY, **settings), initial_basis=tiny.basis)
        assert all(words in str(caught.value) for words in told) and "\n" not in str(caught.value)

    def test_the_same_settings_are_not_refused(self, images, tiny):
        with pytest.raises(AssertionError, match="were read"):
            run(*images[:2], TINY, initial_basis=tiny.basis)

    def test_a_file_that_is_not_there(self, images, tmp_path):
        pytest.importorskip("safetensors")
        with pytest.raises(InputError, match="no such file"):
            run(*images[:2], TINY, initial_basis=tmp_path / "none")


class TestResult:
    def test_it_says_what_was_learned_on(self, tiny):
        config = RegistrationConfig()
        told = tiny.basis.description()
        assert (told["in_channels"], told["num_basis"]) == (2, 5) and told["derivative"] == config.derivative
        assert told["normalization"]["quantile"] == config.quantile and told["hidden_channels"] == [16, 16]

    def test_it_is_what_the_engine_ended_with(self, images, tiny):
        assert same(optimize(engine_of(images, TINY)).learned_bases(), tiny.basis)

    def test_a_basis_that_does_not_learn(self, images, tmp_path):
        found = run(*images[:2], dataclasses.replace(NOTHING, basis="polynomial"))
        assert found.basis is None
        with pytest.raises(InputError, match="polynomial"):
            found.save_basis(tmp_path / "a")


@pytest.mark.slow  # starts processes
@pytest.mark.usefixtures("forked")
class TestTwoProcesses:
    def test_both_bases_start_from_it_and_come_back(self, images, result):
        options = {"initial_basis": result.basis}
        one = run(*images[:2], TINY, **options)
        two = run(*images[:2], TINY, device=None, devices=["cpu", "cpu"], **options)
        np.testing.assert_allclose(two.history[0]["loss"][0], one.history[0]["loss"][0], atol=1e-4)
        for a, b, start in zip(
            (two.basis.forward, two.basis.inverse),
            (one.basis.forward, one.basis.inverse),
            (result.basis.forward, result.basis.inverse),
            strict=True,
        ):
            moved = sum(float((b[name] - start[name]).abs().sum()) for name in b)
            assert moved > 1 and sum(float((a[name] - b[name]).abs().sum()) for name in b) < 0.1 * moved

    def test_without_a_basis_to_learn(self, images):
        settings = dataclasses.replace(TINY, basis="polynomial")
        assert run(*images[:2], settings, device=None, devices=["cpu", "cpu"]).basis is None
