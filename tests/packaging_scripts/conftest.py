# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The scripts in `packaging` are imported as by the scripts beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "packaging"))
