# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Progress and curves of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["LazyWriter", "Progress", "loss_parts"]


class LazyWriter:
    """TensorBoard's ``SummaryWriter``, created at the first write, so that building a bundle leaves no files.

    Args:
        log_dir: folder of the events.
    """

    def __init__(self, log_dir: Any) -> None:
        self._log_dir = log_dir
        self._writer: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up when copying and pickling
            raise AttributeError(name)
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._log_dir))
        return getattr(self._writer, name)


class Progress:
    """Ignite's progress bar with the loss, on a terminal.

    Args:
        name: description of the run.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def attach(self, engine: Engine) -> None:
        """Show the engine's progress."""
        from ignite.handlers import ProgressBar

        def shown(output: Any) -> dict[str, float]:
            return {"loss": float(output["loss"].detach())} if isinstance(output, Mapping) and "loss" in output else {}

        ProgressBar(persist=False, desc=self.name, disable=None).attach(engine, output_transform=shown)


def loss_parts(loss: Any, prefix: str = "train_") -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """An output transform for MONAI's handlers: the loss of a step, and its parts in ``loss.last``."""

    def parts(output: Mapping[str, Any]) -> dict[str, float]:
        values = {"loss_step": output["loss"].detach(), **getattr(loss, "last", {})}
        return {prefix + name: float(value) for name, value in values.items()}

    return parts
