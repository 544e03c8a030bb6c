# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that are checked before they are loaded, written as a whole or not at all, and gone on from bit by bit."""

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

NETWORK = "model"
UNNAMED = ""  # what MONAI's `ckpt_export`, and the model zoo's checks, load when they are told no name


def checked_weights(path: Any, parts: Mapping[str, nn.Module], resume: bool = False, needed: Any = True) -> dict[str, Any]:
    """Of the parts of a model, those that a checkpoint has weights for.

    Args:
        path: checkpoint; None asks for nothing.
        parts: name in the checkpoint to module. A module without weights needs none. Those of the ``"loss"`` may be missing.
        resume: the checkpoint must be one of :class:`LastCheckpoint`.
        needed: if not (see :func:`.flag`), nothing is read.

    Returns:
        name to module, for MONAI's ``CheckpointLoader``.

    Raises:
        InputError: when there is no such checkpoint, or it is one of another architecture.
    """
    if path is None or not flag(needed):
        return {}
    content = _read(Path(str(path)).expanduser())
    if resume and not {*parts, "trainer", "optimizer"} <= content.keys():
        raise InputError(
            f"{path}: holds weights, but not the state of a training; resume from a last.pt, or give it as --ckpt_path"
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
        raise InputError(f"{path}: holds a {type(content).__name__}, not a checkpoint; name another")
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
    """Write a checkpoint as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class BestCheckpoint:
    """Save the weights whenever validation is better than ever before, and stop training when it has not been for long.

    Better is a higher mean Dice where there are labels, else a lower loss. MONAI's ``CheckpointSaver`` deletes the last best
    file before it writes the new one, and like ``EarlyStopHandler`` forgets what the best was when training is resumed.

    Args:
        path: file to write; None writes nothing.
        weights: name in the file to module.
        validator: the evaluator, its metrics named ``"val_dice"`` and ``"val_loss"``.
        patience: number of validations without a better one that end training; 0 or None does not.

    To be attached to the trainer, behind MONAI's ``ValidationHandler``.
    """

    def __init__(
        self, path: str | None, weights: Mapping[str, nn.Module], validator: Engine, patience: int | None = None
    ) -> None:
        self.path, self.weights, self.validator = path, weights, validator
        self.patience, self.best, self.worse = patience, -math.inf, 0

    def attach(self, engine: Engine) -> None:
        """Have the validator call this after every validation."""
        from ignite.engine import Events

        self.trainer = engine
        self.validator.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare, save, and end training."""
        metrics = engine.state.metrics
        score = float(metrics["val_dice"] if "val_dice" in metrics else -metrics.get("val_loss", math.nan))
        self.worse += 1
        if score > self.best:  # never where it is NaN
            self.best, self.worse = score, 0
            if self.path is not None:
                content = {name: module.state_dict() for name, module in self.weights.items()}
                if NETWORK in content:
                    content[UNNAMED] = content[NETWORK]  # the same tensors, stored once
                _save(content, Path(self.path))
                logger.info("best so far, saved %s", self.path)
        if self.patience and self.worse >= self.patience:
            logger.info("no better validation in %d: training ends", self.worse)
            self.trainer.terminate()

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {"best": self.best, "worse": self.worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on."""
        self.best, self.worse = state["best"], state["worse"]


class LastCheckpoint:
    """Save everything after every epoch, and restore it before the first one, so that training goes on where it was.

    Together with :class:`monai_locor.handlers.SeedEpochs` a resumed training is, on a CPU, the same bit by bit.

    Args:
        path: file to write; None writes nothing.
        state: name in the file to what has ``state_dict`` and ``load_state_dict``; the trainer and, in mixed precision, the
            scaler of its gradients are added. A part that is a handler (:class:`BestCheckpoint`) is attached as well.
        resume: file to restore from; None starts anew.

    To be attached to the trainer, behind all handlers whose state it saves.
    """

    def __init__(self, path: str | None, state: Mapping[str, Any], resume: str | None = None) -> None:
        self.path, self.state, self.resume = path, dict(state), resume

    def attach(self, engine: Engine) -> None:
        """Have the trainer restore at its start, and save after every epoch.

        Raises:
            InputError: when the file to restore from was written in another setting, or its training has ended.
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
        """Bring trainer and state to where the file was written."""
        content = _read(Path(str(self.resume)))
        everything = self._everything(engine)
        for name in everything.keys() & content.keys() - {"trainer"}:
            everything[name].load_state_dict(content[name])
        engine.load_state_dict({**content["trainer"], "max_epochs": engine.state.max_epochs})
        logger.info("resumed after epoch %d of %s", engine.state.epoch, self.resume)

    def __call__(self, engine: Engine) -> None:
        """Save."""
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
