# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The small picture of a registration."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from monai_locor.report.html.thumbnail import GAP_PIXELS, MAX_PIXELS, OUTLINE_COLOR, thumbnail, write_thumbnail

from .results import GRID, GRID_2D
from .test_html import result_of


@pytest.mark.parametrize("grid", [GRID, GRID_2D])
def test_both_images_have_the_outlines_of_the_fixed_one(grid, tmp_path):
    result = result_of(grid)
    picture = thumbnail(result)
    height, width, _ = picture.shape
    panel = (width - GAP_PIXELS) // 2
    assert picture.dtype == np.uint8 and max(height, panel) == MAX_PIXELS
    outlines = [(part == OUTLINE_COLOR).all(-1) for part in (picture[:, :panel], picture[:, -panel:])]
    np.testing.assert_array_equal(*outlines)
    assert 10 < outlines[0].sum() < outlines[0].size / 4
    path = write_thumbnail(tmp_path / "thumbnail.jpg", result)
    assert Image.open(path).size == (width, height) and path.stat().st_size < 10_000
