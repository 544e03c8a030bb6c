# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: checked before loading, written atomically, and complete enough to resume training bit by bit."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError
from .options import flag

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["BestCheckpoint", "LastCheckpoint", "checked_weights"]

logger = logging.getLogger(__name__)

NETWORK_KEY = "model"
UNNAMED_KEY = ""  # the default key of MONAI's `ckpt_export` and of the model zoo's checks


def checked_weights(path: Any, parts: Mapping[str, nn.Module], resume: bool = False, needed: Any = True) -> dict[str, Any]:
    """Parts of a model for which a checkpoint has weights.

    Args:
        path: of the checkpoint, or None.
        parts: name in the checkpoint to module. Modules without weights are skipped. Weights of the ``"loss"`` are optional.
        resume: require a checkpoint of :class:`LastCheckpoint`.
        needed: if not (see :func:`.flag`), nothing is read.

    Returns:
        name to module, for MONAI's ``CheckpointLoader``.

    Raises:
        InputError: if the checkpoint does not exist or belongs to another architecture.
    """
    if path is None or not flag(needed):
        return {}
    content = _read(Path(str(path)).expanduser())
    if resume and not {*parts, "trainer", "optimizer"} <= content.keys():
        raise InputError(
            f"{path}: contains weights, but not the state of a training; resume from a last.pt, or give it as --ckpt_path"
        )
    fitting = {}
    for name, module in parts.items():
        if name not in content:
            if name != "loss":
                has = ", ".join(map(str, list(content)[:3]))
                raise InputError(f"{path}: has {has} ..., but no {name}; name a checkpoint of this bundle")
        elif module.state_dict():
            _check_state(path, name, content[name], module.state_dict())
            fitting[name] = module
    return fitting


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a checkpoint with --ckpt_path, or its folder with --ckpt_dir")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its many readers raise
        raise InputError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: contains a {type(content).__name__}, not a checkpoint; name another file")
    return content


def _check_state(path: Any, name: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    remedy = f"it is of another architecture; use the {'similarity' if name == 'loss' else 'network_def'} it was made with"
    for key in [*wanted, *given]:
        if key not in given or key not in wanted:
            where = "has no" if key not in given else "has an additional"
            raise InputError(f"{path}: {name} {where} {key}; {remedy}")
        shapes = [tuple(getattr(state[key], "shape", ())) for state in (given, wanted)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{path}: {key} of the {name} has shape {shapes[0]}, here it is {shapes[1]}; {remedy}")


def _save(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class BestCheckpoint:
    """Save the weights after the best validation so far, and stop training early.

    The criterion is the mean Dice if there are labels, else the loss. MONAI's ``CheckpointSaver`` deletes the previous best
    file before writing the new one and, like ``EarlyStopHandler``, does not restore the best score when training resumes.

    Args:
        path: file to write; None writes nothing.
        weights: name in the file to module.
        validator: the evaluator, its metrics named ``"val_dice"`` and ``"val_loss"``.
        patience: number of validations without improvement after which training stops; 0 or None: never.

    Attach it to the trainer, after MONAI's ``ValidationHandler``.
    """

    def __init__(
        self, path: str | None, weights: Mapping[str, nn.Module], validator: Engine, patience: int | None = None
    ) -> None:
        self.path, self.weights, self.validator = path, weights, validator
        self.patience, self.best, self.worse = patience, -math.inf, 0

    def attach(self, engine: Engine) -> None:
        """Register with the validator, to be called after every validation."""
        from ignite.engine import Events

        self.trainer = engine
        self.validator.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare with the best score; save the weights or stop training."""
        metrics = engine.state.metrics
        score = float(metrics["val_dice"] if "val_dice" in metrics else -metrics.get("val_loss", math.nan))
        self.worse += 1
        if score > self.best:  # false for NaN
            self.best, self.worse = score, 0
            if self.path is not None:
                content = {name: module.state_dict() for name, module in self.weights.items()}
                if NETWORK_KEY in content:
                    content[UNNAMED_KEY] = content[NETWORK_KEY]  # the same tensors, stored once
                _save(content, Path(self.path))
                logger.info("best so far, saved %s", self.path)
        if self.patience and self.worse >= self.patience:
            logger.info("no improvement in %d validations, training stops", self.worse)
            self.trainer.terminate()

    def state_dict(self) -> dict[str, Any]:
        """The best score and the validations since."""
        return {"best": self.best, "worse": self.worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best score and the validations since."""
        self.best, self.worse = state["best"], state["worse"]


class LastCheckpoint:
    """Save the complete state after every epoch, and restore it when training is resumed.

    With :class:`monai_locor.handlers.SeedEpochs`, resumed training gives the same result on a CPU, bit by bit.

    Args:
        path: file to write; None writes nothing.
        state: name in the file to an object with ``state_dict`` and ``load_state_dict``; the trainer and, in mixed precision,
            its gradient scaler are added. Handlers among them (:class:`BestCheckpoint`) are attached as well.
        resume: file to restore from, or None.

    Attach it to the trainer, after all handlers whose state it saves.
    """

    def __init__(self, path: str | None, state: Mapping[str, Any], resume: str | None = None) -> None:
        self.path, self.state, self.resume = path, dict(state), resume

    def attach(self, engine: Engine) -> None:
        """Register with the trainer: restore at the start, save after every epoch.

        Raises:
            InputError: if the file was written with other settings, or its training is complete.
        """
        from ignite.engine import Events

        if self.resume is not None:
            _check_progress(self.resume, _read(Path(self.resume))["trainer"], engine)
            engine.add_event_handler(Events.STARTED, self.restore)
        for part in self.state.values():
            if hasattr(part, "attach"):
                part.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def restore(self, engine: Engine) -> None:
        """Restore the trainer and the state from the file."""
        content = _read(Path(str(self.resume)))
        everything = self._everything(engine)
        for name in everything.keys() & content.keys() - {"trainer"}:
            everything[name].load_state_dict(content[name])
        engine.load_state_dict({**content["trainer"], "max_epochs": engine.state.max_epochs})
        logger.info("resumed after epoch %d of %s", engine.state.epoch, self.resume)

    def __call__(self, engine: Engine) -> None:
        """Save the state."""
        if self.path is not None:
            _save({name: part.state_dict() for name, part in self._everything(engine).items()}, Path(self.path))

    def _everything(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)
        return {**self.state, "trainer": engine, **({} if scaler is None else {"scaler": scaler})}


def _check_progress(path: str, was: Mapping[str, Any], engine: Engine) -> None:
    epoch_length, max_epochs = engine.state.epoch_length, engine.state.max_epochs
    if was["epoch_length"] != epoch_length:
        raise InputError(
            f"{path}: has {was['epoch_length']} steps in an epoch, here it is {epoch_length}; resume with the same "
            f"pairs_per_epoch, batch_size and number of processes"
        )
    epoch = was["iteration"] // was["epoch_length"]
    if max_epochs is not None and epoch >= max_epochs:
        raise InputError(f"{path}: has {epoch} epochs already; give more with --epochs, or do not resume")
