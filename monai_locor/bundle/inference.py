# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of ``inference.json``: the pairs to register, and the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.datalist import registration_pairs
from ..data.pairs import check_pairs
from ..errors import InputError
from .configuration import Configuration
from .one_line import one_line_errors
from .options import flag

__all__ = ["checked_pairs", "network_disabled", "register"]


def checked_pairs(
    preset: Any = "default",
    fixed: Any = None,
    moving: Any = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    datalist: Any = None,
    **options: Any,
) -> list[dict[str, str]]:
    """The pairs of :func:`monai_locor.data.datalist.registration_pairs`, their images checked.

    Args:
        preset: settings of the registration.
        fixed, moving, fixed_mask, moving_mask, datalist: see :func:`registration_pairs`. If none is given there are no pairs:
            tools build a bundle without data, and :func:`register` refuses to start then.
        options: of :func:`registration_pairs`.
    """
    given = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask, "datalist": datalist}
    if all(value is None for value in given.values()):
        return []
    pairs = registration_pairs(**given, **options)
    check_pairs(pairs, preset)
    return pairs


def network_disabled(path: str, use_network: Any) -> bool:
    """Whether no weights are to be loaded.

    Args:
        path: of the weights.
        use_network: see :func:`flag`.

    Raises:
        InputError: if the network is used and its weights do not exist.
    """
    used = flag(use_network)
    if used and not Path(path).is_file():
        raise InputError(
            f"{path}: no such file, and use_network needs trained weights; name them with --ckpt_path, or do without"
        )
    return not used


def register(configuration: Configuration, evaluator: str = "evaluator") -> None:
    """Make an evaluator and run it; to be called in ``run``.

    Raises:
        SystemExit: with one line for an :class:`InputError`; and, after all results are written, if a registration has the
            verdict FAIL. All other errors pass.
    """
    with one_line_errors():
        engine = configuration.get(evaluator)
        if len(engine.data_loader) == 0:
            raise InputError("nothing to register; give --fixed and --moving, or --datalist")
        engine.run()
    rows = getattr(engine.state, "registrations", [])
    failed = [f"{row['pair']} ({row['why']})" for row in rows if row["verdict"] == "FAIL"]
    if failed:
        raise SystemExit(f"verdict FAIL of {len(failed)} of {len(rows)} registrations, which are written: {', '.join(failed)}")
