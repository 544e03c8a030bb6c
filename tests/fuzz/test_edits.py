# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What edits the files of the fuzz tests depends on nothing but its arguments."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("hypothesis")

from .edits import edited_json


def test_a_value_that_was_set_can_be_edited():
    value: list[object] = [1]
    edits = [("set", 0, value), ("set", 1, value), ("set", 2, 7)]
    assert json.loads(edited_json(b"{}", edits)) == [[7]]
    assert value == [1]
