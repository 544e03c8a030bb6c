# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion between arrays and tensors of every layout and type."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.tensors import as_tensor, host_array

from .layouts import LAYOUTS

KINDS = ["float16", "float32", "float64", "int16", "uint8", "int64", "complex64", "bool"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout(layout, kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    given = LAYOUTS[layout](array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_tensor(given)
    assert layout == "extended precision" or found.numpy().dtype == kind
    np.testing.assert_array_equal(found.numpy(), array)


def test_a_plain_array_is_shared_and_numbers_are_read():
    array = np.zeros((2, 3))
    assert as_tensor(array).data_ptr() == as_tensor(array.T).data_ptr() == array.ctypes.data
    assert as_tensor([1, 2.5]).tolist() == [1, 2.5] and as_tensor(np.float32(3)).shape == ()
    assert type(as_tensor(MetaTensor(torch.ones(1, 2)))) is torch.Tensor


@pytest.mark.parametrize(("given", "kind"), [("text", TypeError), (None, TypeError), ([[1.0], [1.0, 2.0]], ValueError)])
def test_what_holds_no_numbers(given, kind):
    with pytest.raises(kind):
        as_tensor(given)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.bool, torch.complex64])
def test_tensors_of_any_type(kind):
    values = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(kind)
    expected = values.float().numpy() if kind == torch.bfloat16 else values.numpy()
    for given in (values, values.T.contiguous().T, MetaTensor(values)):
        found = host_array(given)
        assert type(found) is np.ndarray and found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    if values.is_floating_point():
        np.testing.assert_array_equal(host_array(values.requires_grad_()), expected)


def test_a_conjugate_that_is_not_computed_yet():
    np.testing.assert_array_equal(host_array(torch.tensor([1 + 2j]).conj()), [1 - 2j])
