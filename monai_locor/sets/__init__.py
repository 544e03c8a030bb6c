# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sets of images: templates of many subjects, midpoints of the visits of one, and series. Requires the extra ``cohort``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import longitudinal, template
    from .frames import series
    from .results import Series, Template
    from .subjects import Subject, read_subjects

__all__ = ["Series", "Subject", "Template", "longitudinal", "read_subjects", "series", "template"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["longitudinal", "template"],
        "frames": ["series"],
        "results": ["Series", "Template"],
        "subjects": ["Subject", "read_subjects"],
    },
)
