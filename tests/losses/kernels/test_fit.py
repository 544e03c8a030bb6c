# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The fits of the windows in Triton's interpreter, against the portable path in float64."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
import torch

from monai_locor.losses.kernels import choice
from monai_locor.losses.ridge import gram_pairs, ridge_residual, window_residual

from ..test_ridge import moments

RIDGE = 1e-4
VALUE, GRADIENT = 1e-5, 1e-4  # of the largest


def maps_of(size: int, channels: int, extra: int = 0, windows: tuple[int, ...] = (3, 4, 5)) -> torch.Tensor:
    """Maps of two items with the means and further rows, float64."""
    psi = torch.rand(2, size, 40, *windows, dtype=torch.float64)
    t = torch.rand(2, channels, 40, *windows, dtype=torch.float64)
    i, j = torch.tensor(gram_pairs(size)).T
    products = (psi[:, i] * psi[:, j]).mean(2), (psi[:, :, None] * t[:, None]).mean(3).flatten(1, 2), t.square().mean(2)
    return torch.cat([*products, psi.mean(2), t.mean(2), torch.rand(2, extra, *windows, dtype=torch.float64)], 1)


def solve(
    maps: torch.Tensor, size: int, channels: int, fused: bool | None, eps: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residuals, and the gradient of a sum of them with alternating weights."""
    maps = maps.detach().requires_grad_()
    found = window_residual(maps, size, channels, RIDGE, None, fused, eps)
    weights = torch.linspace(0, 50, found.numel(), dtype=found.dtype).sin().view_as(found)
    return found.detach(), torch.autograd.grad((found * weights).sum(), maps)[0]


@pytest.mark.parametrize(
    ("size", "channels", "extra"), [(1, 1, 0), (2, 1, 1), (3, 2, 0), (4, 1, 0), (5, 2, 8), (6, 3, 0), (7, 4, 0), (8, 1, 0)]
)
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_same_as_the_portable_path(interpreter, size, channels, extra, eps):
    maps = maps_of(size, channels, extra)
    exact, (value, gradient) = solve(maps, size, channels, False, eps), solve(maps.float(), size, channels, True, eps)
    assert value.dtype == torch.float32
    assert (value - exact[0]).abs().max() < VALUE * exact[0].max()
    assert (gradient - exact[1]).abs().max() < GRADIENT * exact[1].abs().max()
    unused = extra + (size + channels if eps is None else 0)
    assert not unused or not gradient[:, -unused:].any()


@pytest.mark.parametrize("windows", [(1,), (32,), (2, 33)])
def test_any_number_of_windows(interpreter, windows):
    maps = maps_of(3, 1, windows=windows).float()
    for found, expected in zip(solve(maps, 3, 1, True), solve(maps, 3, 1, False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_basis_function_that_stands_there_twice(interpreter):
    """A is singular up to the ridge; the residual is still that of the best fit, the gradient finite."""
    once = [x.float() for x in moments(1, 1)]
    inputs = [once[0].expand(-1, 3, 3, 4), once[1].expand(-1, 2, 1, 3, 4), once[2]]
    inputs = [x.clone().requires_grad_() for x in inputs]
    maps = torch.cat([inputs[0], inputs[1].flatten(1, 2), inputs[2]], 1)
    found = window_residual(maps, 2, 1, RIDGE, fused=True)
    torch.testing.assert_close(found, ridge_residual(*once, RIDGE / 2), rtol=1e-3, atol=1e-6)
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), inputs))


def test_negative_rounding_is_clamped_and_has_no_gradient(interpreter):
    maps = maps_of(3, 2).float()
    maps[:, 12:14] -= 1
    value, gradient = solve(maps, 3, 2, True)
    assert not value.any() and not gradient.any()


def test_a_target_without_variance(interpreter):
    maps = maps_of(3, 1).double()
    maps[:, 9] = maps[:, -1].square()
    exact, found = solve(maps, 3, 1, False, 1e-3), solve(maps.float(), 3, 1, True, 1e-3)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=0, atol=1e-3)
    assert found[1].isfinite().all()


def test_not_a_number_stays_in_its_window(interpreter):
    maps = maps_of(3, 1).float()
    maps[1, 2, 0, 1, 2] = float("nan")
    value, gradient = solve(maps, 3, 1, True)
    assert value.isnan().nonzero().tolist() == [[1, 0, 0, 1, 2]]
    assert gradient.isnan().any(1).nonzero().tolist() == [[1, 0, 1, 2]]


def test_under_function_transforms(interpreter):
    maps = maps_of(2, 1).float().unsqueeze(1)

    def score(x: torch.Tensor, fused: bool) -> torch.Tensor:
        return window_residual(x, 2, 1, RIDGE, fused=fused).square().sum()

    found = torch.func.vmap(torch.func.grad(lambda x: score(x, True)))(maps)
    expected = torch.stack([torch.func.grad(lambda x: score(x, False))(x) for x in maps])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Kernels that are chosen on the CPU: the residual is right, the gradient fails."""
    module = ModuleType("launch_fit")

    def residual(options: choice.FitOptions, maps: torch.Tensor) -> torch.Tensor:
        return window_residual(maps, options.size, options.channels, options.ridge, eps=options.eps)

    def residual_gradient(*given: object) -> torch.Tensor:
        raise RuntimeError("out of resource")

    module.residual, module.residual_gradient = residual, residual_gradient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "monai_locor.losses.kernels.launch_fit", module)
    monkeypatch.setattr(choice, "_of_machine", lambda device: "")
    monkeypatch.setattr(choice, "_failed", set())
    monkeypatch.setattr(choice, "_asked_for", lambda fused, device: fused is not False and device not in choice._failed)
    return module


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_after_a_failure_the_portable_path_computes(failing, caplog, eps):
    maps = maps_of(3, 1).float()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for found, expected in zip(solve(maps, 3, 1, None, eps), solve(maps, 3, 1, False, eps), strict=True):
                torch.testing.assert_close(found, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "Triton failed on cpu (RuntimeError: out of resource); the loss is computed without it."
    ]


@pytest.mark.parametrize(("size", "channels"), [(9, 1), (2, 5)])
def test_large_systems_are_left_to_the_portable_path(failing, size, channels):
    maps = maps_of(size, channels).float()
    assert not choice.solves(choice.FitOptions(size, channels, RIDGE), maps, True)
    assert choice.solves(choice.FitOptions(2, 1, RIDGE), maps, True)
    assert not choice.solves(choice.FitOptions(2, 1, RIDGE), maps.double(), True)
    solve(maps, size, channels, True)


def test_a_cpu_is_never_chosen(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai_locor.losses.kernels.launch_fit", None)  # cannot be imported
    solve(maps_of(2, 1).float(), 2, 1, None)
