# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair with a known answer and its registration, made once for a file of tests."""

from __future__ import annotations

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationResult

from ..phantoms import pair
from .short_runs import run


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair()


@pytest.fixture(scope="module")
def result(images) -> RegistrationResult:
    return run(*images[:2])
