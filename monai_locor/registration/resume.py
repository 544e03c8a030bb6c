# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The state of a registration at the end of each stage, to continue after its process was killed.

A stage whose state was saved is not run: its result is taken from the file. Everything between the stages (the search for
another start, the test for inter-subject pairs) is computed again, with the same result, because it depends on these states and
on the inputs only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..differences import first_difference
from ..errors import InputError, one_line
from ..io.paths import atomic_path, check_output_dir
from ..run_log import RunLog
from .engine import RegistrationEngine
from .manifest import versions
from .schedule import Stage
from .stages import run_stage

__all__ = ["STATE_FORMAT", "StageStates", "state_identity"]

logger = logging.getLogger(__name__)

STATE_FORMAT = "monai_locor state 1"
STATE_KEYS = {"format", "identity", "record", "warnings", "doubts"}


def state_identity(arguments: Mapping[str, Any], settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What the bytes of a result depend on, as plain values: inputs by hash, settings, device, threads, versions.

    Args:
        arguments: see :func:`.described.described_arguments`.
        settings: all settings of the registration.
        device: device of the registration.
    """
    threads = torch.get_num_threads()
    values = {"arguments": arguments, "settings": settings, "device": str(device), "threads": threads, "versions": versions()}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


class StageStates:
    """The saved states of one registration: one file for each stage, written when it ends.

    A file holds arrays (parameters of the transform, the losses and their random generators) and a text (JSON: identity,
    history and warnings of the stage). It is read without pickle.

    Args:
        folder: created if missing.
        identity: see :func:`state_identity`.
        log: warnings of the run.

    Raises:
        InputError: if the folder cannot be written.
    """

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any], log: RunLog) -> None:
        self.folder, self.identity, self.log = check_output_dir(folder), identity, log
        self.count = 0

    def run(self, engine: RegistrationEngine, stage: Stage, update: Callable[[], object]) -> None:
        """Run a stage and save its state, or restore it if it was saved.

        Args:
            engine, stage, update: see :func:`.stages.run_stage`.

        Raises:
            InputError: if the saved state is that of another registration, or damaged.
        """
        path = self.folder / f"stage_{self.count:03d}.npz"
        self.count += 1
        if path.exists():
            self._restore(path, engine, stage)
            for _ in range(stage.iterations):
                update()
            return
        known = len(self.log.warnings), len(self.log.doubts)
        run_stage(engine, stage, update)
        text = {
            "format": STATE_FORMAT,
            "identity": self.identity,
            "record": engine.history[-1] if stage.iterations else None,
            "warnings": self.log.warnings[known[0] :],
            "doubts": self.log.doubts[known[1] :],
        }
        arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in _tensors(engine).items()}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, text=np.array(json.dumps(text)), **arrays)

    def _restore(self, path: Path, engine: RegistrationEngine, stage: Stage) -> None:
        """Advance an engine to the end of a stage that was saved."""
        text, arrays = self._read(path)
        if text.get("format") != STATE_FORMAT:
            raise InputError(f"{path}: has format {text.get('format')!r}, not {STATE_FORMAT!r}; delete {self.folder}")
        difference = first_difference(text["identity"], self.identity)
        if difference:
            raise InputError(
                f"{path}: is the state of another registration ({difference}); delete {self.folder}, or use another"
            )
        engine.enter(stage)
        tensors = _tensors(engine)
        if {n: _kind(t.detach().cpu().numpy()) for n, t in tensors.items()} != {n: _kind(a) for n, a in arrays.items()}:
            raise InputError(f"{path}: does not belong to this stage; delete {self.folder}")
        for name, tensor in tensors.items():
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(arrays[name]))
        for generator, name in _generators(engine):
            generator.set_state(torch.from_numpy(arrays[name]))
        if text["record"] is not None:
            engine.history.append(text["record"])
        for kept, line in [*((False, line) for line in text["warnings"]), *((True, line) for line in text["doubts"])]:
            self.log.add(line, doubtful=kept)
        logger.info("%s: stage restored", path)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            text = json.loads(str(arrays.pop("text")))
        except Exception as error:  # numpy and zipfile raise various types for damaged files
            raise InputError(f"{path}: is damaged ({one_line(error)}); delete {self.folder}") from error
        known = isinstance(text, dict) and (text.get("format") != STATE_FORMAT or set(text) >= STATE_KEYS)
        if not known:
            raise InputError(f"{path}: is damaged (its text is not complete); delete {self.folder}")
        return text, arrays


def _kind(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape, array.dtype.name


def _tensors(engine: RegistrationEngine) -> dict[str, torch.Tensor]:
    """The tensors that a stage changes, by name; those of random generators are copies."""
    found = {f"transform_{k}": parameter for k, parameter in enumerate(engine.transform_parameters())}
    found = {**found, **{f"losses.{name}": value for name, value in engine.losses.state_dict(keep_vars=True).items()}}
    return {**found, **{name: generator.get_state() for generator, name in _generators(engine)}}


def _generators(engine: RegistrationEngine) -> list[tuple[torch.Generator, str]]:
    """The random generators of the losses, each once, with names."""
    found: dict[int, torch.Generator] = {}
    for module in engine.losses.modules():
        generator = getattr(module, "generator", None)
        if isinstance(generator, torch.Generator):
            found.setdefault(id(generator), generator)
    return [(generator, f"generator_{k}") for k, generator in enumerate(found.values())]
