# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Save the result of each registration as soon as it is available."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..report import write_report
from ..report.summary import summary_lines, summary_row, verdict_lines, write_summary
from ..roles import ROLES

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["RegistrationSaver"]

logger = logging.getLogger(__name__)

SUMMARY_FILE = "summary.csv"


class RegistrationSaver:
    """Save the :class:`monai_locor.RegistrationResult` of each pair at the end of its iteration.

    Args:
        output_dir: output folder; created when the first result is written.
        pred_key: key of the list of results in the engine's output.
        report: also write ``report.html`` for each pair; needs matplotlib.
        folder_key: key of the list of subfolders in the engine's batch, see
            :func:`monai_locor.data.datalist.registration_pairs`; an empty name means ``output_dir`` itself. Without this key,
            the pairs of an epoch are numbered from 1. If a name occurs twice in an epoch, the number of the pair is appended.

    The verdicts are logged. The rows of the summary table (:func:`monai_locor.report.summary.summary_row`) are kept in the
    engine's state as ``registrations``. If the pairs have subfolders, the table is written to ``summary.csv`` and logged at
    the end of the epoch.

    Example::

        SupervisedEvaluator(..., decollate=False, val_handlers=[RegistrationSaver("output")])
    """

    def __init__(
        self, output_dir: str | PathLike[str], pred_key: str = "pred", folder_key: str = "folder", report: bool = False
    ) -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.pred_key, self.folder_key = pred_key, folder_key
        self.report = report
        self._written: list[Path] = []  # folders of this epoch
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register this handler to run at the end of each iteration."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarize)

    def _start(self, engine: Engine) -> None:
        self._written, self._rows = [], []
        engine.state.registrations = self._rows  # type: ignore[attr-defined]

    def __call__(self, engine: Engine) -> None:
        """Save the results of the engine's current iteration.

        Raises:
            InputError: if the folder is not writable.
        """
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        results = output[self.pred_key]
        first = len(self._written) + 1
        folders = batch.get(self.folder_key) or [f"pair_{first + i:04d}" for i in range(len(results))]
        masks = [_masks(batch.get(f"{role}_mask"), len(results)) for role in ROLES]
        for i, (result, folder) in enumerate(zip(results, folders, strict=True)):
            path = self._unique_folder(folder)
            result.save(path)
            if self.report:
                self._report(path / "report.html", result, masks[0][i], masks[1][i])
            logger.info("registered in %.1f s, results in %s", result.seconds, path)
            self._log_verdict(result, path)

    def _report(self, path: Path, result: Any, fixed_mask: Any, moving_mask: Any) -> None:
        if find_spec("matplotlib") is None:
            logger.warning("%s is not written: matplotlib is missing; pip install matplotlib", path)
            return
        write_report(path, result, fixed_mask=fixed_mask, moving_mask=moving_mask)

    def _log_verdict(self, result: Any, path: Path) -> None:
        name = path.relative_to(self.output_dir).as_posix()
        self._rows.append(summary_row(result, path.name if name == "." else name))
        if result.verdict is None:
            return
        for line in verdict_lines(result.verdict):
            logger.log(result.verdict.log_level, "%s: %s", path.name, line.strip())

    def _summarize(self, engine: Engine) -> None:
        if not self._rows or self._written == [self.output_dir]:  # a single pair, without a datalist
            return
        write_summary(self.output_dir / SUMMARY_FILE, self._rows)
        for line in summary_lines(self._rows):
            logger.info("%s", line)
        logger.info("table of all pairs: %s", self.output_dir / SUMMARY_FILE)

    def _unique_folder(self, folder: str) -> Path:
        """The folder of a pair, with a number appended if another pair of this epoch uses it."""
        path = wanted = self.output_dir / folder
        number = len(self._written)
        while path in self._written:
            number += 1
            path = self.output_dir / f"{folder or 'pair'}_{number:04d}"
        if path != wanted:
            logger.warning("%s already holds another pair of this run; saving to %s", wanted, path)
        self._written.append(path)
        return path


def _masks(given: Any, count: int) -> list[Any]:
    """The masks of a batch one by one, from a list or a collated tensor; None for pairs without."""
    return [None] * count if given is None or not len(given) else list(given)
