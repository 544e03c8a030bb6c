# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Writes what a registration gives as soon as it is there."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["RegistrationSaver"]

logger = logging.getLogger(__name__)


class RegistrationSaver:
    """Save the :class:`monai_locor.RegistrationResult` of every pair at the end of its iteration.

    Args:
        output_dir: folder of the results; made when the first one is written.
        pred_key: where the engine's output holds the list of results.
        folder_key: where the engine's batch holds the list of sub-folders, see
            :func:`monai_locor.data.datalist.registration_pairs`; an empty name is ``output_dir`` itself. In a batch without
            them, the pairs of an epoch are numbered from 1 on. No pair overwrites another one of its epoch: where a name
            comes again, the number of the pair is added.

    Example::

        SupervisedEvaluator(..., decollate=False, val_handlers=[RegistrationSaver("output")])
    """

    def __init__(self, output_dir: str | PathLike[str], pred_key: str = "pred", folder_key: str = "folder") -> None:
        self.output_dir = Path(output_dir).expanduser()
        self.pred_key, self.folder_key = pred_key, folder_key
        self._written: list[Path] = []  # in this epoch

    def attach(self, engine: Engine) -> None:
        """Have the engine call this at the end of every iteration."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        self._written = []

    def __call__(self, engine: Engine) -> None:
        """Save the results of the engine's current iteration.

        Raises:
            InputError: when the folder cannot be written to.
        """
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        results = output[self.pred_key]
        first = len(self._written) + 1
        folders = batch.get(self.folder_key) or [f"pair_{first + i:04d}" for i in range(len(results))]
        for result, folder in zip(results, folders, strict=True):
            path = self._own(folder)
            result.save(path)
            logger.info("registered in %.1f s, results in %s", result.seconds, path)

    def _own(self, folder: str) -> Path:
        """Where a pair goes: its folder, unless another pair of this epoch is there."""
        path = wanted = self.output_dir / folder
        number = len(self._written)
        while path in self._written:
            number += 1
            path = self.output_dir / f"{folder or 'pair'}_{number:04d}"
        if path != wanted:
            logger.warning("%s holds another pair of this run, results go to %s", wanted, path)
        self._written.append(path)
        return path
