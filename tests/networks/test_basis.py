# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis networks."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from monai_locor.networks.basis import LearnedBasis, PolynomialBasis
from monai_locor.networks.basis_tape import LearnedBasisTape


class TestLearnedBasis:
    @pytest.mark.parametrize("hidden", [(16, 16), (8,), (), [4, 5, 6]])
    @pytest.mark.parametrize("channels", [1, 2, 3])
    @pytest.mark.parametrize("shape", [(11,), (5, 7), (3, 4, 5), (1, 1, 1)])
    def test_it_is_a_fully_connected_network_at_every_voxel(self, shape, channels, hidden, device):
        basis = LearnedBasis(channels, 5, hidden).to(device)
        modules: list[nn.Module] = []
        for layer in basis.layers:
            modules += [layer, nn.ReLU()]
        plain = nn.Sequential(*modules[:-1], nn.Sigmoid())
        x = torch.randn(2, channels, *shape, device=device)
        expected = plain(x.movedim(1, -1)).movedim(-1, 1)
        assert basis.num_basis == 5 and expected.shape == (2, 5, *shape)
        torch.testing.assert_close(basis(x), expected, rtol=1e-5, atol=1e-6)

    def test_gradcheck(self):
        basis = LearnedBasis(2, 3, (4,)).double()
        x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
        # gradcheck moves its inputs in place, the parameters too
        assert torch.autograd.gradcheck(lambda x, *_: basis(x), (x, *basis.parameters()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_computes_in_the_precision_of_its_input(self, dtype):
        basis = LearnedBasis(1)
        out = basis(torch.rand(1, 1, 4, dtype=dtype))
        out.sum().backward()
        assert out.dtype == dtype and all(p.grad.dtype == torch.float32 for p in basis.parameters())

    def test_the_input_is_left_alone(self):
        x = torch.randn(1, 2, 6)
        before = x.clone()
        LearnedBasis(2, 3, ())(x)
        assert torch.equal(x, before)

    def test_state_dict_and_copy(self):
        basis, other = LearnedBasis(2), LearnedBasis(2)
        other.load_state_dict(basis.state_dict())
        x = torch.randn(1, 2, 6)
        assert torch.equal(basis(x), other(x)) and torch.equal(basis(x), copy.deepcopy(basis)(x))

    @pytest.mark.parametrize("sizes", [(0, 5, (16,)), (1, 0, (16,)), (1, 5, (16, 0)), (1, 5, (-1,))])
    def test_exception(self, sizes):
        with pytest.raises(ValueError, match="positive"):
            LearnedBasis(*sizes)


class TestPolynomialBasis:
    @pytest.mark.parametrize("degree", range(6))
    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_all_monomials_each_once(self, channels, degree):
        basis = PolynomialBasis(channels, degree)
        x = torch.rand(2, channels, 4, 3, dtype=torch.float64) + 0.5
        powers = [p for p in itertools.product(range(degree + 1), repeat=channels) if sum(p) <= degree]
        expected = torch.stack([math.prod(x[:, c] ** p for c, p in enumerate(ps)) + 0 * x[:, 0] for ps in powers], 1)
        found = basis(x)
        assert basis.num_basis == len(powers) == math.comb(channels + degree, channels) == found.shape[1]
        # the order is the module's own
        distance = (found[:, :, None] - expected[:, None]).flatten(3).abs().amax((0, 3))
        nearest = distance.argmin(1)
        assert sorted(nearest.tolist()) == list(range(len(powers)))
        assert distance.gather(1, nearest[:, None]).max() < 1e-12

    def test_the_constant_comes_first(self):
        out = PolynomialBasis(2, 3)(torch.rand(1, 2, 5))
        assert torch.equal(out[:, 0], torch.ones(1, 5))

    def test_it_has_nothing_to_learn(self):
        basis = PolynomialBasis(2)
        assert basis.num_basis == 10 and not list(basis.parameters()) and not basis.state_dict()

    def test_gradcheck(self):
        x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(PolynomialBasis(2, 4), x)

    @pytest.mark.parametrize("options", [(0, 3), (2, -1)])
    def test_exception(self, options):
        with pytest.raises(ValueError, match="at least"):
            PolynomialBasis(*options)


class TestFirstWeights:
    @pytest.mark.parametrize("sizes", [(1, 5, (16, 16)), (2, 3, (4,)), (3, 2, ())])
    def test_they_are_those_of_linear_layers_after_manual_seed(self, sizes):
        """A seed keeps its weights: two bases one after the other, from a generator or the global state."""
        channels, count, hidden = sizes
        torch.manual_seed(17)
        pairs = list(itertools.pairwise([channels, *hidden, count]))
        expected = [p for _ in range(2) for a, b in pairs for p in nn.Linear(a, b).parameters()]
        torch.manual_seed(17)
        drawn = [p for _ in range(2) for p in LearnedBasis(*sizes).parameters()]
        generator, state = torch.Generator().manual_seed(17), torch.get_rng_state()
        own = [p for _ in range(2) for p in LearnedBasis(*sizes, generator=generator).parameters()]
        assert torch.equal(torch.get_rng_state(), state)
        for found in (drawn, own):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_drawn_anew(self, device):
        basis = LearnedBasis(2)
        expected = copy.deepcopy(basis.state_dict())
        basis.to(device).reset_parameters(torch.Generator().manual_seed(3))
        again = LearnedBasis(2, generator=torch.Generator().manual_seed(3)).state_dict()
        for name, value in basis.state_dict().items():
            assert torch.equal(value.cpu(), again[name]) and not torch.equal(value.cpu(), expected[name])
            assert value.device.type == device.type
        assert all(p.requires_grad and p.is_leaf for p in basis.parameters())

    def test_another_default_dtype_or_device_changes_nothing(self):
        expected = LearnedBasis(2, generator=torch.Generator().manual_seed(3)).state_dict()
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                found = LearnedBasis(2, generator=torch.Generator("cpu").manual_seed(3)).state_dict()
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(torch.equal(found[name], value) and found[name].dtype == torch.float32 for name, value in expected.items())


def test_a_tape_does_not_move_parameters():
    parameters = list(LearnedBasis(1).to("meta").parameters())
    with pytest.raises(RuntimeError, match=r"basis is on meta, the images on cpu.*loss\.to\(device\)"):
        LearnedBasisTape(parameters, torch.zeros(1), 4)
    tape = LearnedBasisTape(list(LearnedBasis(1).double().parameters()), torch.zeros(1), 4)
    assert tape(torch.rand(1, 1, 4), slice(0, 1)).dtype == torch.float32
