# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""One pair with a known answer and its registration, made once for a file of tests."""

from __future__ import annotations

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import RegistrationResult

from .phantom import pair, run


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair()


@pytest.fixture(scope="module")
def result(images) -> RegistrationResult:
    return run(*images[:2])
