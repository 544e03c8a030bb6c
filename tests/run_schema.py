# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Validation of a ``run.json`` against its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import jsonschema

from monai_locor.schemas import run_schema


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def valid_run(path: Path) -> dict[str, Any]:
    """The content of a file, which must be strict JSON and follow the schema."""
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    jsonschema.Draft202012Validator(run_schema()).validate(content)
    return content
