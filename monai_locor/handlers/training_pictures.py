# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""TensorBoard images of registered pairs and of learned basis functions during training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..geometry import Grid, from_voxels
from ..networks.basis import LearnedBasis
from ..report import before_after_picture
from ..report.pictures.basis import basis_picture
from ..tensors import plain
from .registration_metrics import pairs

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["BasisPictures", "WarpPictures"]

DIRECTIONS = {"similarity": "basis functions of the moving image", "inverse_similarity": "basis functions of the fixed image"}


class _Pictures:
    """A TensorBoard writer, created for the first image, and the interval between images."""

    def __init__(self, summary_writer: Any, log_dir: str | Path, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"interval must be positive, got {interval}.")
        self.log_dir, self.interval = log_dir, interval
        self._writer, self._own = summary_writer, summary_writer is None
        self._epochs = 0

    def _turn(self) -> bool:
        self._epochs += 1
        return (self._epochs - 1) % self.interval == 0

    def _write(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Write an image ``(rows, columns, RGB)`` and flush, since a run may end at any time."""
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("TensorBoard is missing: pip install 'monai-locor[bundle]'") from error
            self._writer = SummaryWriter(log_dir=str(self.log_dir))
        self._writer.add_image(tag, picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the writer if this handler created it."""
        if self._own and self._writer is not None:
            self._writer.close()
            self._writer = None


class WarpPictures(_Pictures):
    """Draw the first pair of an epoch before and after registration, with checkerboards and the deformed grid.

    For an evaluator; see :func:`monai_locor.report.before_after_picture`. Needs ``"fixed"`` and ``"moving"`` in the batch, and
    ``"ddf"`` and ``"warped_moving"`` in the output's ``"pred"``, as returned by
    :class:`monai_locor.networks.RegistrationNetwork`.

    Args:
        summary_writer: TensorBoard writer; by default a new one in ``log_dir``.
        interval: draw every ``interval`` epochs, starting with the first.
        tag: tag of the image in TensorBoard.

    Raises:
        ValueError: if ``interval`` is not positive.
    """

    def __init__(
        self, summary_writer: Any = None, log_dir: str | Path = "runs", interval: int = 1, tag: str = "registration"
    ) -> None:
        super().__init__(summary_writer, log_dir, interval)
        self.tag = tag
        self._wanted = False

    def attach(self, engine: Engine) -> None:
        """Register this handler to run after each iteration; only the first of an epoch is drawn."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _started(self, engine: Engine) -> None:
        self._wanted = self._turn()

    def __call__(self, engine: Engine) -> None:
        """Draw the first pair of the current iteration if an image is due.

        Raises:
            ImportError: if matplotlib or TensorBoard is missing; the message names the extra to install.
        """
        if not self._wanted:
            return
        self._wanted = False
        batch, output = pairs(engine)[0]
        title = ", ".join(filter(None, (str(batch.get("name", "")), f"epoch {engine.state.epoch}")))
        self._write(self.tag, _warp_picture(batch, output["pred"], title), engine.state.epoch)


def _warp_picture(batch: dict[str, Any], pred: dict[str, torch.Tensor], title: str) -> np.ndarray:
    from matplotlib.image import imread

    ddf, after = (plain(pred[key]).detach().float().cpu() for key in ("ddf", "warped_moving"))
    displacement = from_voxels(ddf, Grid.of(batch["fixed"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        before_after_picture(path, batch["fixed"], plain(batch["moving"]), after, title, displacement)
        return np.asarray(imread(path))[..., :3]


class BasisPictures(_Pictures):
    """Draw the learned basis functions of a loss, one image per direction.

    See :func:`monai_locor.report.basis_picture`. Nothing is drawn for a loss without a
    :class:`monai_locor.networks.LearnedBasis`.

    Args:
        loss: any module, for instance a :class:`monai_locor.losses.RegistrationLoss`; it is not modified.
        summary_writer: TensorBoard writer; by default a new one in ``log_dir``.
        interval: draw every ``interval`` epochs, starting with the first.

    Raises:
        ValueError: if ``interval`` is not positive.
    """

    def __init__(
        self, loss: torch.nn.Module, summary_writer: Any = None, log_dir: str | Path = "runs", interval: int = 1
    ) -> None:
        super().__init__(summary_writer, log_dir, interval)
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Register this handler to run after each epoch."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw all bases if an image is due.

        Raises:
            ImportError: if matplotlib or TensorBoard is missing; the message names the extra to install.
        """
        if not self._turn():
            return
        for path, module in self.loss.named_modules():
            if isinstance(module, LearnedBasis):
                place = path.removeprefix("module.").removesuffix("basis").rstrip(".")  # DistributedDataParallel's name
                figure: Any = basis_picture(module, f"{DIRECTIONS.get(place, place)}, epoch {engine.state.epoch}".lstrip(", "))
                figure.canvas.draw()
                tag = "basis/" + place if place else "basis"
                self._write(tag, np.asarray(figure.canvas.buffer_rgba())[..., :3], engine.state.epoch)
