# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

if sys.platform == "linux":
    # tests of several processes talk to themselves; gloo would look up this machine's name, which may take minutes or fail
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-inputs", type=int, default=2000, metavar="N", help="number of inputs that tests/fuzz tries")


@pytest.fixture(scope="session")
def fuzz_inputs(request: pytest.FixtureRequest) -> int:
    """Number of inputs of all fuzzing tests together."""
    return request.config.getoption("--fuzz-inputs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a process or a large library of its own is kept together, so that one worker of pytest-xdist pays for it.

    The tests on the pretended device come first, those that load all of ITK last. Others take their place in the middle,
    where the second worker begins.
    """
    rank = {HERE / "pretend": 0, HERE / "io": 2, HERE / "registration": 2}
    items.sort(key=lambda item: next((rank[folder] for folder in item.path.parents if folder in rank), 1))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    np.random.seed(0)  # MONAI's transforms draw from the global state
    torch.manual_seed(0)


@pytest.fixture
def no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """No comparison with turned and mirrored starts, in which the verdict on a small pair spends nearly all of its time.

    For tests of something else that cannot set ``multistart="never"``; tests/registration/test_rivals.py has its own.
    """
    from monai_locor.registration.start.rivals import RivalStarts

    monkeypatch.setattr(RivalStarts, "compared", lambda self, affine: ())


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and the GPU where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of benchmark images beside the repository; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no folder of shared data beside the repository")
    return SHARED
