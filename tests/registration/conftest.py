# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair with a known answer and its registration, made once for all tests of a process."""

from __future__ import annotations

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationResult
from monai_locor.registration import parallel

from ..forked import forkserver
from ..phantoms import pair
from .short_runs import TINY, run


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process of a registration comes from one that has imported everything: without ten seconds of imports."""
    context = forkserver()
    monkeypatch.setattr(parallel.mp, "get_context", lambda _: context)


@pytest.fixture(scope="session")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair()


@pytest.fixture(scope="session")
def result(images) -> RegistrationResult:
    return run(*images[:2])


@pytest.fixture(scope="session")
def tiny(images) -> RegistrationResult:
    """Of eight steps: what other ways to the same result are compared with."""
    return run(*images[:2], TINY)
