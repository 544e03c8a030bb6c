# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the benchmarks of landmarks, labels and surfaces share: their options, and a table of the rows of all cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from _tables import markdown
from registration import about


def options_of(description: str | None) -> argparse.ArgumentParser:
    """The options of all of them; a script may add its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the cases")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu",))
    return parser


def run(
    parser: argparse.ArgumentParser,
    rows: Callable[[Path, argparse.Namespace], Iterator[dict[str, Any]]],
    columns: Sequence[str],
) -> None:
    """Print the rows of all cases as they come, and a table of them.

    Args:
        parser: of :func:`options_of`.
        rows: called with the folder of a case and the options.
        columns: of the table.
    """
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for name in options.cases:
        for row in rows(options.root / name, options):
            found.append(row)
            print(row, flush=True)
    print(about(options))
    print(markdown(columns, [[str(row[name]) for name in columns] for row in found]))
