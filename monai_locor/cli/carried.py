# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images, label maps and lists of points to which a transform is applied."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError
from .output_files import suffix_of

if TYPE_CHECKING:
    import torch
    from monai.data.meta_tensor import MetaTensor

    from ..geometry import Grid, SpatialTransform

__all__ = [
    "EXACT_MODES",
    "POINTS",
    "Carried",
    "add_interpolation",
    "holds_tensors",
    "is_points",
    "load_carried",
    "mode_of",
]

logger = logging.getLogger(__name__)

POINTS = (".csv", ".fcsv", ".json", ".mrk.json")


EXACT_MODES = ("nearest", "smooth")  # of label maps
INTERPOLATIONS = {
    "linear": "bilinear",
    "nearest": "nearest",
    "bspline": "bspline",
    "windowed-sinc": "lanczos",
    "lanczos": "lanczos",
    "smooth": "smooth",
}


def add_interpolation(parser: argparse._ActionsContainer, more: str = "") -> None:
    """``-n``."""
    parser.add_argument(
        "-n",
        "--interpolation",
        choices=tuple(INTERPOLATIONS),
        metavar="NAME",
        help="interpolation of an image: linear, nearest, bspline (cubic), windowed-sinc (same as lanczos)"
        + more
        + " (default: linear; nearest for images that look like a label map)",
    )


def mode_of(name: str | None) -> str | None:
    """The name of an interpolation in :func:`monai_locor.geometry.warp`; None for the default."""
    return None if name is None else INTERPOLATIONS[name]


def is_points(path: str | Path) -> bool:
    """Whether a file name has a suffix of point lists."""
    return suffix_of(path) in POINTS


@dataclass(frozen=True)
class Carried:
    """An image, label map or list of points, read from a file.

    Attributes:
        path: its file.
        kind: ``"image"``, ``"labels"`` or ``"points"``.
        content: ``(C, *spatial)``, ``(1, *spatial)`` int64, or a :class:`monai_locor.io.points.PointList`.
        lps: whether points in .csv files are LPS, as in ANTs.
        mode: of interpolation, see :func:`monai_locor.geometry.warp`; a label map's is ``"nearest"`` or ``"smooth"``.
        tensor_axes: axes of the components of a tensor image, ``"voxels"`` or ``"world"``.
        pixels_of: images in whose pixels points of .csv files are, before and after the transform; None for mm.
    """

    path: Path
    kind: str
    content: Any
    lps: bool = False
    mode: str = "bilinear"
    tensor_axes: str = "voxels"
    pixels_of: tuple[Grid, Grid] | None = None

    @property
    def grid(self) -> Grid | None:
        """Grid of an image or a label map; None for points."""
        from ..geometry import Grid

        return None if self.kind == "points" else Grid.of(self.content)

    @property
    def is_flat_picture(self) -> bool:
        """Whether it is read from a picture of one plane, whose channels are colors."""
        from ..io.paths import is_picture

        return self.grid is not None and self.grid.dims == 2 and is_picture(self.path)

    def beside(self, grid: Grid | None) -> Carried:
        """A copy placed on ``grid`` if the header of the image has no position; ``grid`` may be None."""
        if grid is None or self.kind == "points":
            return self
        from ..io.masks import placed_like

        return dataclasses.replace(self, content=placed_like(self.content, grid, f"{self.kind} {self.path}"))

    def through(
        self, transform: SpatialTransform, grid: Grid | None, target: Path, errors: Callable[..., dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Apply a transform and write the output.

        Images and label maps are resampled onto ``grid`` in fixed space; points are mapped from fixed to moving.

        Args:
            transform: from fixed to moving.
            grid: of the output; None for points.
            target: output file.
            errors: columns for points, from the points before and after the transform, each ``(N, D)``.

        Returns:
            a description for the JSON object of a command.

        Raises:
            InputError: if the dimensions differ from those of the transform or the output cannot be written.
        """
        if self.kind == "points":
            return self.as_flat_as(transform.dims)._points(transform, target, errors)
        self.check_dims(transform.dims)
        assert grid is not None and self.grid is not None
        from ..geometry import check_planes
        from ..io.content_detection import LABEL_INTENTS
        from ..io.images import write_image

        check_planes(self.grid, grid, (f"{self.kind} {self.path}", "the output grid"))

        if self.kind == "labels":
            out = self.labels_on(transform, grid)
            write_image(target, out, grid, _label_dtype(self.content.meta["stored_dtype"], out), self.content.meta)
        else:
            out, dtype = self._image(transform, grid)
            interpolated = self.mode != "nearest" and self.content.meta.get("intent") in LABEL_INTENTS
            write_image(target, out, grid, dtype, {} if interpolated else self.content.meta)
        return {"input": self.path, "kind": self.kind, "output": target, "shape": list(grid.shape), "interpolation": self.mode}

    def as_series(self, transform: SpatialTransform, grid: Grid, folder: Path, reference: Path) -> dict[str, Any]:
        """Apply a transform to an image and write it as a DICOM series, see :func:`monai_locor.io.dicom.images.write_series`.

        Args:
            grid: that of the reference.
            folder: for the files of the series.
            reference: DICOM file or folder to whose study the series belongs.
        """
        from ..io.dicom.images import write_series

        self.check_dims(transform.dims)
        moved, _ = self._image(transform, grid)
        files = write_series(folder, moved.numpy(), grid, reference, self.path)
        shape = list(grid.shape)
        return {"input": self.path, "kind": "image", "outputs": files, "shape": shape, "interpolation": self.mode}

    def check_dims(self, wanted: int) -> None:
        """Raise InputError unless a transform has the dimensions of the content."""
        dims = self.content.points.shape[1] if self.kind == "points" else self.content.ndim - 1
        if dims != wanted:
            raise InputError(f"{self.kind} {self.path}: is {dims}-D, the transform {wanted}-D; give those of one pair")

    def as_flat_as(self, dims: int) -> Carried:
        """Leave out the third coordinate that ANTs' CSV also has in 2-D, if it is zero and there are two dimensions."""
        from ..io.points import PointList

        points = self.content.points
        if not self.lps or suffix_of(self.path) != ".csv" or dims != 2 or points[:, 2:].any():
            return self
        return dataclasses.replace(self, content=PointList(points[:, :2], self.content.labels))

    def _points(
        self, transform: SpatialTransform, target: Path, errors: Callable[..., dict[str, Any]] | None
    ) -> dict[str, Any]:
        from ..io.points import PointList, write_points

        self.check_dims(transform.dims)
        moved = transform.points(self.content.points)
        self._warn_outside(transform)
        image = None if self.pixels_of is None else self.pixels_of[1]
        columns = None if errors is None else errors(self.content.points, moved)
        write_points(target, PointList(moved, self.content.labels), lps=self.lps, pixels_of=image, columns=columns)
        return {"input": self.path, "kind": "points", "output": target, "count": len(moved)}

    def _warn_outside(self, transform: SpatialTransform) -> None:
        import torch

        from ..geometry import inside
        from ..geometry.steps import world_to_voxels

        domain = transform.domain
        if domain is None:
            return
        voxels = world_to_voxels(torch.as_tensor(self.content.points).double(), domain)
        outside = int((~inside(voxels, domain.shape, margin=-0.5)).sum())
        if outside:
            logger.warning(
                "points %s: %d of %d lie outside the displacement field, where it is zero as in ITK; check that they "
                "are in the fixed space of the transform",
                *(self.path, outside, len(self.content.points)),
            )

    def _image(self, transform: SpatialTransform, grid: Grid) -> tuple[torch.Tensor, str]:
        from ..geometry import warp_in_blocks
        from ..io.pictures import background_of
        from ..tensors import plain

        own, stored = self.grid, self.content.meta["stored_dtype"]
        assert own is not None
        if self.is_flat_picture:
            fill = background_of(plain(self.content).movedim(0, -1).numpy()).tolist()
            return warp_in_blocks(transform, self.content, own, grid, self.mode, fill), stored
        if holds_tensors(self.content, f"image {self.path}"):
            return transform.warp_tensors(self.content, own, grid, self.mode, self.tensor_axes), "float32"
        moved = transform.warp(self.content, own, grid, self.mode)
        return moved, _label_dtype(stored, moved) if self.mode == "nearest" and "int" in stored else "float32"

    def labels_on(self, transform: SpatialTransform | None, grid: Grid) -> torch.Tensor:
        """The label map on a grid in fixed space, ``(1, *grid.shape)`` int64; without a transform, by world coordinates.

        Raises:
            InputError: if the dimensions differ.
        """
        from ..geometry import Grid, check_planes, warp
        from ..tensors import plain

        values, own = plain(self.content), Grid.of(self.content)
        if own.dims != grid.dims:
            raise InputError(f"labels {self.path}: are {own.dims}-D, the fixed grid {grid.dims}-D; give those of one pair")
        check_planes(own, grid, (f"labels {self.path}", "the fixed grid"))
        if transform is None:
            return warp(values, own, None, grid, self.mode)
        return plain(transform.warp(values, own, grid, self.mode))


# NIfTI intents whose values a transform would have to rotate
ROTATED_INTENTS = ("vector", "displacement vector", "general matrix", "quaternion", "pointset", "triangle")


def holds_tensors(image: MetaTensor, name: str) -> bool:
    """Whether an image holds symmetric tensors, which are reoriented. Warn of other content that would need it.

    Raises:
        InputError: for a whole vector image, and for tensors that do not have six components.
    """
    from ..io.content_detection import vectors_in
    from ..tensors import plain

    intent, whole = image.meta.get("intent", ""), len(image) > 1
    if intent == "symmetric matrix" and whole:
        if len(image) != 6 or image.ndim != 4:
            raise InputError(f"{name}: holds symmetric matrices of {len(image)} components; those of 3-D tensors have 6")
        return True
    if intent in ROTATED_INTENTS and whole:
        raise InputError(
            f"{name}: holds vectors or matrices (intent {intent}), which the transform would have to rotate; select one "
            "component with --channel of apply, or, for a displacement field, use compose"
        )
    looks = vectors_in(plain(image).numpy())
    if intent in (*ROTATED_INTENTS, "symmetric matrix"):
        logger.warning("%s: is one component of several (intent %s) and is not rotated", name, intent)
    elif looks:
        logger.warning("%s: looks like %s and is not rotated", name, looks)
    return False


PORTABLE_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


def _label_dtype(stored: str, labels: torch.Tensor) -> str:
    """The type of the file if it is an integer type that other tools read; else one that holds the labels."""
    if stored in PORTABLE_INTEGERS:
        return stored
    return "int32" if int(labels.min()) >= -(2**31) and int(labels.max()) < 2**31 else "int64"


def load_carried(
    path: str | Path,
    kind: str,
    role: str,
    channel: int | str | None = None,
    lps: bool = False,
    mode: str | None = None,
    tensor_axes: str = "voxels",
    pixels_of: tuple[Grid, Grid] | None = None,
) -> Carried:
    """Read an image, a label map or points.

    Args:
        kind: ``"image"``, ``"labels"`` or ``"points"``.
        role: ``"fixed"`` or ``"moving"``, for messages.
        channel: channel of a multichannel image, or ``"all"``.
        lps: whether points in a .csv file are LPS, as in ANTs.
        mode: interpolation; by default linear, and nearest for label maps and, with a warning, for images that look like one.
        tensor_axes: axes of the components of a tensor image, ``"voxels"`` or ``"world"``.
        pixels_of: images in whose pixels points of a .csv file are, before and after the transform; None for mm.

    Raises:
        InputError: if it cannot be read.
    """
    path = Path(path).expanduser()
    if kind == "points":
        from ..io.points import read_points

        before = None if pixels_of is None else pixels_of[0]
        points = read_points(path, lps=lps, what=f"{role} points", pixels_of=before)
        return Carried(path, kind, points, lps, pixels_of=pixels_of)
    if kind == "labels":
        return _carried_labels(path, role, channel, mode or "nearest")
    import torch

    from ..io.grids import read_grid
    from ..io.image_source import load_source
    from ..io.paths import is_picture

    if is_picture(path) and read_grid(path, f"{role} image").dims == 2:
        return _carried_picture(path, role, channel, mode)
    exact = torch.float64 if mode == "nearest" else torch.float32  # nearest keeps the values
    name, image = load_source(path, f"{role} image", channel, exact)
    if mode is None and _is_label_map(image, name):
        return _carried_labels(path, role, channel, "nearest", image)
    return Carried(path, kind, image, mode=mode or "bilinear", tensor_axes=tensor_axes)


TESTED_PIXELS = 2048  # along each axis of a picture, to recognize a label map


def _carried_picture(path: Path, role: str, channel: int | str | None, mode: str | None) -> Carried:
    """A picture with its colors in the type of the file; by default all channels."""
    import torch
    from monai.data.meta_tensor import MetaTensor

    from ..io.image_files import read_stored

    name = f"{role} image {path}"
    stored = read_stored(path, name).chosen("all" if channel is None else channel, name)
    image = MetaTensor(torch.from_numpy(stored.voxels).movedim(-1, 0), affine=torch.from_numpy(stored.affine))
    image.meta.update(filename_or_obj=str(path), stored_dtype=stored.dtype)
    box = (slice(None), *(slice(max(0, (n - TESTED_PIXELS) // 2), (n + TESTED_PIXELS) // 2) for n in image.shape[1:]))
    if mode is None and len(image) == 1 and _is_label_map(cast(MetaTensor, image[box]), name):
        return _carried_labels(path, role, channel, "nearest")
    return Carried(path, "image", image, mode=mode or "bilinear")


MAX_EXACT_LABEL = 2**23  # smaller whole numbers are exact in float32, even after a rounding error


def _carried_labels(path: Path, role: str, channel: int | str | None, mode: str, image: MetaTensor | None = None) -> Carried:
    """A label map; ``image`` is the same file as float32, to avoid reading it again unless it has larger values."""
    from ..io.images import read_labels, rounded_labels

    if image is None or float(image.as_tensor().abs().max()) >= MAX_EXACT_LABEL:
        return Carried(path, "labels", read_labels(path, role, channel), mode=mode)
    from monai.data.meta_tensor import MetaTensor

    labels = MetaTensor(rounded_labels(image, f"{role} labels {path}").long(), meta=image.meta)
    return Carried(path, "labels", labels, mode=mode)


def _is_label_map(image: MetaTensor, name: str) -> bool:
    """Whether an image is or looks like a label map, as in ``info``; if so, warn."""
    from ..io.content_detection import labels_in
    from ..tensors import plain

    labels = labels_in(plain(image).numpy(), image.meta.get("intent", ""))
    if labels is None:
        return False
    logger.warning(
        "%s: %s, so nearest-neighbor interpolation is used; confirm with --labels, or give -n linear",
        *(name, "looks like a mask" if len(labels) == 2 else "looks like a label map"),
    )
    return True
