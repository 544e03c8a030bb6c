# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The package ``studies`` is imported as by the scripts beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
