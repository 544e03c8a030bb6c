# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``python -m monai_locor``: the command line, see :mod:`monai_locor.cli`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
