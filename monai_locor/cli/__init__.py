# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The command line ``monai-locor``: one module a command, each with ``add_parser`` and ``run``.

Only :mod:`argparse` is imported to build the parser, so that ``--help`` answers at once; what a command needs it imports
when it runs.
"""

from __future__ import annotations

from .main import build_parser, main

__all__ = ["build_parser", "main"]
