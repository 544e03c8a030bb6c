# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""PyTorch modes and defaults that the caller has set do not change a registration, and are restored after it."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch.utils._python_dispatch import TorchDispatchMode

from monai_locor import RegistrationResult, register
from monai_locor.inferers import InstanceOptimizationInferer
from monai_locor.inferers.network_input import align, network_grid, network_image, predict_velocity
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.networks import RegistrationNetwork
from monai_locor.registration import RegistrationEngine, Stage, optimize
from monai_locor.registration.start.prepare import prepare

from ..parameters import mostly_slow
from ..phantoms import grid_of, pair
from .short_runs import TINY, engine_of, run

SINGLE_STEP = dataclasses.replace(TINY, stages=(Stage(2, 1, spacing=8),))
SEARCHING = dataclasses.replace(TINY, multistart="always")
SMALL = grid_of((24, 22), (3.0, 3.0), (0.0, 0.0))
CUBE = grid_of((18, 17, 15), (4.0, 4.0, 5.0))


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with Watch():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Watch(TorchDispatchMode):
    """Refuses products and convolutions that are not computed in full precision, whatever this processor makes of it."""

    NAMES = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "convolution", "convolution_backward")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.NAMES:
            found = reduced()
            assert not found, f"{func} with {found}"
        return func(*args, **(kwargs or {}))


def reduced() -> list[str]:
    """Settings of a host without GPU that are not at full precision."""
    if not hasattr(torch.backends, "fp32_precision"):
        return [p for p in [torch.get_float32_matmul_precision()] if p != "highest"]
    found = [getattr(torch.backends.mkldnn, name).fp32_precision for name in ("matmul", "conv", "rnn")]
    return [p for p in found if p not in ("ieee", "none")]


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "high": lambda: products("high"),
    "medium": lambda: products("medium"),
    "float64": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),  # what is made there cannot be computed with
}


@contextlib.contextmanager
def all_states() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for state in STATES.values():
            stack.enter_context(state())
        yield


each_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
all_at_once = pytest.mark.parametrize(  # each alone runs with the slow tests
    "state", mostly_slow([all_states, *STATES.values()]), ids=["all", *STATES]
)


def assert_same(found: RegistrationResult, expected: RegistrationResult) -> None:
    for name in ("forward_mm", "inverse_mm", "warped_moving", "warped_fixed"):
        a, b = (getattr(r, name) for r in (found, expected))
        assert a.dtype == b.dtype and a.device == b.device and torch.equal(a, b), name
        assert not a.is_inference() and not a.requires_grad
    assert np.array_equal(found.affine, expected.affine)
    assert found.jacobian == expected.jacobian
    assert [s["loss"] for s in found.history] == [s["loss"] for s in expected.history]
    assert found.verdict is not None and found.verdict.to_dict() == expected.verdict.to_dict()


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair(SMALL, SMALL)


def mask_of(image: MetaTensor) -> MetaTensor:
    return MetaTensor((image > -0.9).float(), affine=image.affine)


@pytest.fixture(scope="module")
def expected(images) -> RegistrationResult:
    return run(*images[:2], TINY)


@pytest.fixture(scope="module")
def expected_of_engine(images) -> list[torch.Tensor]:
    return used(engine_of(images, TINY, initial=np.eye(3)))


class TestRegister:
    @all_at_once
    def test_the_result_is_the_same(self, state, images, expected):
        """Reading, stages, fields, warped images and the verdict."""
        with state():
            found = run(*images[:2], TINY)
        assert_same(found, expected)

    @pytest.mark.slow
    def test_with_all_that_there_is(self):
        """In 3-D, with masks and the search for a start."""
        fixed, moving, _ = pair(CUBE, CUBE)
        masks = {"fixed_mask": mask_of(fixed), "moving_mask": mask_of(moving)}
        expected = run(fixed, moving, SEARCHING, **masks)
        with all_states():
            found = run(fixed, moving, SEARCHING, **masks)
        assert_same(found, expected)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [{"similarity": "mind_ssc"}, {"similarity": "local_ncc"}, {"similarity": "mutual_information"}, {"masked": True}],
        ids=["mind_ssc", "local_ncc", "mutual_information", "masked"],
    )
    def test_with_other_options(self, options, images):
        fixed, moving, _ = images
        if options.pop("masked", False):
            options |= {"fixed_mask": mask_of(fixed), "moving_mask": mask_of(moving)}
        expected = run(fixed, moving, TINY, **options)
        with all_states():
            found = run(fixed, moving, TINY, **options)
        assert_same(found, expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["initial", "initial_velocity"])
    def test_from_a_field_or_a_velocity(self, name, images):
        fixed, moving, truth = images
        expected = run(fixed, moving, TINY, **{name: truth})
        with all_states():
            found = run(fixed, moving, TINY, **{name: truth})
        torch.testing.assert_close(found.forward_mm, expected.forward_mm, rtol=0, atol=1e-4)  # lstsq is not the same twice

    @each_state
    def test_what_the_result_does_later(self, state, images, expected):
        fixed, moving, _ = images
        labels = (fixed > 0).byte()
        calls: list[Callable[[], torch.Tensor]] = [
            lambda: expected.forward_ddf,
            lambda: expected.inverse_ddf,
            lambda: expected.initial_mm,
            expected.moving_before,
            lambda: expected.warp_moving(moving),
            lambda: expected.warp_fixed(labels, mode="nearest"),
        ]
        for call in calls:
            known = call()
            with state():
                found = call()
            assert found.dtype == known.dtype and torch.equal(found, known)

    @pytest.mark.parametrize("kind", mostly_slow(["images", "velocity", "masks", "initial"], 2))
    def test_what_was_made_in_inference_mode(self, kind, images, expected):
        fixed, moving, truth = images
        with torch.inference_mode():
            copies = fixed.clone(), moving.clone()
            mask, velocity, matrix = mask_of(fixed), truth / 3, torch.eye(3)
        assert mask.is_inference() and matrix.is_inference()
        if kind == "images":
            assert_same(run(*copies, TINY), expected)
        options = {"masks": {"fixed_mask": mask}, "initial": {"initial": matrix}, "velocity": {"initial_velocity": velocity}}
        if kind in options:
            assert_same(
                run(fixed, moving, TINY, **options[kind]),
                run(fixed, moving, TINY, **{name: value.clone() for name, value in options[kind].items()}),
            )

    def test_an_initial_field_that_asks_for_gradients(self, images):
        fixed, moving, truth = images
        for name, value in (("initial", torch.eye(3)), ("initial", truth), ("initial_velocity", truth)):
            result = run(fixed, moving, SINGLE_STEP, **{name: value.clone().requires_grad_()})
            assert torch.isfinite(result.forward_mm).all() and not result.forward_mm.requires_grad


class TestRandomState:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "similarity",
        [None, "local_parzen_cr", lambda dims: LocalLearnedBasisCRLoss(dims, rescale=False)],
        ids=["locor", "name", "own"],
    )
    def test_nothing_is_seeded_and_nothing_is_drawn(self, similarity, images, monkeypatch):
        """torch.manual_seed would seed every GPU as well."""

        def refuse(*args: Any) -> None:
            raise AssertionError(args)

        before = torch.get_rng_state()
        for owner in (torch, torch.random, torch.cuda):
            monkeypatch.setattr(owner, "manual_seed", refuse)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
        first = run(*images[:2], TINY, similarity=similarity, seed=3)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(5)
        second = run(*images[:2], TINY, similarity=similarity, seed=3)
        assert torch.equal(first.forward_mm, second.forward_mm)
        third = run(*images[:2], TINY, similarity=similarity, seed=4)
        assert not torch.equal(first.forward_mm, third.forward_mm)

    def test_a_named_measure_never_touches_the_global_state(self, images, monkeypatch):
        def refuse(*args: Any, **options: Any) -> None:
            raise AssertionError(args)

        monkeypatch.setattr(torch.random, "fork_rng", refuse)
        monkeypatch.setattr(torch, "set_rng_state", refuse)
        run(*images[:2], TINY)


def used(engine: RegistrationEngine) -> list[torch.Tensor]:
    """What the public methods of an engine return, step by step."""
    found = []
    for stage in engine.config.stages:
        engine.enter(stage)
        for _ in range(stage.iterations):
            found += engine.step()
    found += engine.compared(0)
    forward = engine.forward_mm()
    found += [forward, engine.inverse_mm(forward)]
    bases = engine.learned_bases()
    assert bases is not None
    found += [*bases.forward.values(), *bases.inverse.values()]
    assert not any(x.is_inference() or x.requires_grad for x in found)
    return [*found, torch.from_numpy(engine.matrix())]


class TestEngine:
    @all_at_once
    def test_used_inside(self, state, images, expected_of_engine):
        engine = engine_of(images, TINY, initial=np.eye(3))
        with state():
            found = used(engine)
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected_of_engine, strict=True))

    @all_at_once
    def test_made_inside_and_used_outside(self, state, images, expected_of_engine):
        with state():
            engine = engine_of(images, TINY, initial=np.eye(3))
        found = used(engine)
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected_of_engine, strict=True))

    def test_whole_runs(self, images):
        expected = optimize(engine_of(images, TINY, initial=np.eye(3))).forward_mm()
        engine = engine_of(images, TINY, initial=np.eye(3))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            optimize(engine)
        assert torch.equal(engine.forward_mm(), expected)


@pytest.mark.slow
def test_the_inferer_with_a_network(images):
    fixed, moving, _ = images
    network = torch.nn.Conv2d(2, 2, 3, padding=1)
    inferer = InstanceOptimizationInferer(TINY, use_network=True, network_spacing=6.0, divisible=2, progress=False)
    (expected,) = inferer(fixed[None], network, moving=moving[None])
    with all_states():
        (found,) = inferer(fixed[None], network, moving=moving[None])
    assert_same(found, expected)


@each_state
def test_what_a_network_is_shown(state, images):
    sides = [prepare(image, None, TINY.quantile, torch.device("cpu")) for image in images[:2]]
    model = RegistrationNetwork(torch.nn.Conv2d(2, 2, 3, padding=1), 2, divisible=2)

    def shown() -> list[torch.Tensor]:
        grid, matrix = network_grid(sides[0], 6.0), align(*sides, TINY, "start")
        return [*network_image(sides[1], matrix, grid), predict_velocity(model, *sides, matrix, 6.0)]

    expected = shown()
    with state():
        found = shown()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_two_threads_at_once(images, expected):
    """One in low precision around it, the other not; neither sees the other."""
    found: dict[str, RegistrationResult] = {}

    def work(name: str) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            found[name] = register(*images[:2], preset=TINY, progress=False, device="cpu")

    torch.set_float32_matmul_precision("medium")
    try:
        threads = [threading.Thread(target=work, args=(name,)) for name in ("autocast", "plain")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    for result in found.values():
        assert_same(result, expected)
    assert len(found) == 2
