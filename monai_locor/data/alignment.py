# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Prepare pairs of images for a registration network: affine alignment, a common grid, batches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import collate_meta_tensor
from monai.engines.utils import PrepareBatch
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from ..errors import InputError
from ..geometry import Grid, apply_affine, reorder, warp
from ..inferers.network_input import align, network_grid, network_image
from ..io.masks import placed_like
from ..registration import Pair, RegistrationConfig, load_pair, select_device
from ..roles import ROLES
from ..tensors import plain

__all__ = ["AlignPairD", "AlignPairDict", "AlignPaird", "PrepareBatchRegistration", "checked_spacing", "training_collate"]

ALIGNMENTS = ("affine", "start")


class AlignPaird(MapTransform):
    """Align a pair by an affine and resample it to the grid of the network.

    The grid W covers the fixed image's field of view with isotropic voxels and axes nearest to R, A, S, in whatever axis order
    the image is stored. Both images are smoothed to its voxel size and sampled there once, the moving one through the affine.
    The transform is deterministic, so that a ``CacheDataset`` or ``PersistentDataset`` computes it once per pair.

    Takes the output of :class:`.training_pairs.ReadTrainingPaird`, and returns a dictionary with

    - ``"fixed"``, ``"moving"``: ``(1, *W)``, robust range in [0, 1]; ``"fixed_weight"``, ``"moving_weight"``: ``(1, *W)`` in
      [0, 1], zero where the image has no voxels or its mask is zero (the masks themselves are gone);
    - ``"fixed_label"``, ``"moving_label"``: ``(1, *W)``, by nearest neighbor, if given;
    - ``"fixed_landmarks"``, ``"moving_landmarks"``: ``(N, D)``, voxels of W, if given. The displacement of a perfect
      registration takes each fixed landmark to the moving one.
    - ``"affine"``: ``(D + 1, D + 1)`` float64, fixed to moving world points, RAS mm.

    All volumes are float32 MetaTensors with the affine of W. Random spatial transforms after this one must be applied to
    images, weights and label maps alike. Landmarks do not follow them, and are meant for validation without augmentation.

    Args:
        spacing: voxel size of the network's grid, mm.
        preset: settings of the alignment, see :func:`monai_locor.register`.
        alignment: ``"affine"`` runs the affine stages of the preset, ``"start"`` uses their initial transform.
        spatial_size: W is cropped or zero-padded about its center to this size, so that pairs of different size can be batched;
            one number holds for every axis. None keeps its size.
        device: for the affine registration; results are on the CPU.

    Raises:
        InputError: for invalid settings; when applied, for a pair that cannot be aligned.

    Example::

        transform = Compose([
            ReadTrainingPaird(),
            AlignPaird(spacing=3.0, spatial_size=(64, 80, 64)),
            RandFlipd(("fixed", "moving", "fixed_weight", "moving_weight"), prob=0.5, spatial_axis=0),
            DerivativeMagnituded(("fixed", "moving"), spacing="voxel"),
        ])
        loader = DataLoader(CacheDataset(pairs, transform), batch_size=4, collate_fn=training_collate)
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        spacing: float,
        preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
        alignment: str = "affine",
        spatial_size: Sequence[int] | int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(ROLES)
        self.spacing = checked_spacing(spacing)
        self.config = RegistrationConfig.of(preset)
        if alignment not in ALIGNMENTS:
            raise InputError(f"alignment must be one of {', '.join(ALIGNMENTS)}, got {alignment!r}")
        self.alignment = alignment
        self.spatial_size = _checked_size(spatial_size)
        self.device = str(select_device(device))

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        """Align one pair.

        Raises:
            InputError: if it cannot be aligned.
        """
        d = dict(data)
        masks = {f"{role}_mask": d.pop(f"{role}_mask", None) for role in ROLES}
        try:
            pair = load_pair(d["fixed"], d["moving"], self.config, device=self.device, **masks)
            grid = network_grid(pair.fixed, self.spacing)
            box = self._box(grid)
        except ValueError as error:
            raise InputError(f"pair {d.get('name', '')}: {error}") from error
        with torch.enable_grad():  # an evaluator reads its batches without gradients
            affine = align(pair.fixed, pair.moving, self.config, self.alignment)
        for role, matrix in zip(ROLES, (np.eye(grid.dims + 1), affine)):
            d.update(self._volumes(role, d, pair, matrix, grid, box))
            if d.get(f"{role}_landmarks") is not None:
                d[f"{role}_landmarks"] = _landmarks(d[f"{role}_landmarks"], matrix, grid.cropped(box))
        d["affine"] = torch.from_numpy(affine)
        return d

    def _box(self, grid: Grid) -> list[slice]:
        """The cropped or padded part of a grid, in its voxels; it may extend beyond them."""
        size = grid.shape if self.spatial_size is None else self.spatial_size
        size = size * grid.dims if len(size) == 1 else size
        if len(size) != grid.dims:
            raise InputError(f"spatial_size is {size}, and the images are {grid.dims}-D; give {grid.dims} numbers")
        starts = [(have - want) // 2 for have, want in zip(grid.shape, size, strict=True)]
        return [slice(start, start + want) for start, want in zip(starts, size, strict=True)]

    def _volumes(
        self, role: str, data: Mapping[Any, Any], pair: Pair, matrix: np.ndarray, grid: Grid, box: Sequence[slice]
    ) -> dict[str, MetaTensor]:
        """Image, weight and, where there is one, label map of one role on the grid, then cropped or padded."""
        prepared, name = getattr(pair, role), getattr(pair, f"{role}_image").meta["filename_or_obj"]
        image, weight = network_image(prepared, matrix, grid)
        volumes = {role: image.clamp(0, 1), f"{role}_weight": weight.clamp(0, 1)}  # removes rounding errors of the sampling
        if data.get(f"{role}_label") is not None:
            label = placed_like(data[f"{role}_label"], prepared.stored, f"{role} label of {name}")
            volumes[f"{role}_label"] = _label(label, matrix, grid)
        affine = torch.from_numpy(grid.cropped(box).full_affine)
        widths = [width for b, n in zip(reversed(box), reversed(grid.shape)) for width in (-b.start, b.stop - n)]
        shown = {key: F.pad(plain(volume).float().cpu(), widths) for key, volume in volumes.items()}  # negative widths crop
        return {key: MetaTensor(v, affine=affine.clone(), meta={"filename_or_obj": name}) for key, v in shown.items()}


def checked_spacing(spacing: float) -> float:
    """A voxel size in mm.

    Raises:
        InputError: if it is not a positive number.
    """
    if isinstance(spacing, bool) or not isinstance(spacing, (int, float)) or not 0 < spacing < float("inf"):
        raise InputError(f"spacing must be a positive number of mm, got {spacing!r}")
    return float(spacing)


def _checked_size(size: Sequence[int] | int | None) -> tuple[int, ...] | None:
    if size is None:
        return None
    given: Any = (size,) if isinstance(size, int) else size
    whole = isinstance(given, Sequence) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given)
    if not whole or not 1 <= len(given) <= 3:
        raise InputError(f"spatial_size must be one whole number, or one for each axis, above 0, got {size!r}")
    return tuple(given)


def _label(label: torch.Tensor, matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """A label map on the network's grid, ``(1, *grid)``.

    It is brought to canonical axis order first, so that points halfway between two voxels are rounded in the same direction
    in every axis order.
    """
    stored = Grid.of(label)
    order = stored.canonical_order()
    own = stored.reordered(*order).snapped()
    seen = Grid(own.shape, np.linalg.inv(matrix) @ own.affine)
    return warp(reorder(plain(label), *order), seen, None, grid, mode="nearest")


def _landmarks(points: torch.Tensor, matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """World points of an image, ``(N, D)``, in voxels of the network's grid, float32."""
    world = np.asarray(points, dtype=np.float64)
    if world.ndim != 2 or world.shape[1] != grid.dims:
        raise InputError(f"landmarks must be (N, {grid.dims}) world points, got shape {world.shape}")
    return torch.from_numpy(apply_affine(np.linalg.inv(matrix @ grid.affine), world)).float()


def training_collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate pairs from :class:`AlignPaird`.

    Returns:
        tensors stacked, ``(B, ...)``, MetaTensors with their meta data; landmarks ``(B, N, D)``, padded with NaN where
        pairs have fewer points; everything else (names) as lists.

    Raises:
        InputError: if images differ in shape, or only some pairs have a key.
    """
    batch: dict[str, Any] = {}
    for key in dict.fromkeys(key for item in items for key in item):
        missing = [_name(item) for item in items if item.get(key) is None]
        if len(missing) == len(items):
            continue
        if missing:
            raise InputError(
                f"no {key} of {', '.join(missing)}, but other pairs of the batch have one; use batch size 1, or give it for all"
            )
        values = [item[key] for item in items]
        if not all(isinstance(value, torch.Tensor) for value in values):
            batch[key] = values
            continue
        if key.endswith("_landmarks"):
            values = _filled(values)
        elif len({tuple(value.shape) for value in values}) > 1:
            shapes = ", ".join(f"{_name(item)} {tuple(item[key].shape)}" for item in items)
            raise InputError(f"{key} images of a batch differ in shape: {shapes}; set spatial_size, or use batch size 1")
        batch[key] = collate_meta_tensor(values)
    return batch


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("name", "a pair without name"))


def _filled(points: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Points padded to the same number: MONAI's engines decollate batches, which fails for a list of tensors."""
    most = max(len(p) for p in points)
    return [F.pad(p, (0, 0, 0, most - len(p)), value=float("nan")) for p in points]


class PrepareBatchRegistration(PrepareBatch):
    """Turn a batch of :func:`training_collate` into the arguments of :class:`monai_locor.networks.RegistrationNetwork`.

    MONAI's trainers and evaluators then call ``network(moving, fixed, moving_weight=..., fixed_weight=...)``; the target of
    the loss is the fixed image. Label maps and landmarks stay in the batch for the metrics.
    """

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, torch.Tensor | None]]:
        """Move a batch to the device as plain tensors, see :class:`monai.engines.PrepareBatch`."""

        def moved(key: str) -> torch.Tensor | None:
            value = batchdata.get(key)
            return None if value is None else plain(value).to(device=device, non_blocking=non_blocking, **kwargs)

        images = {role: moved(role) for role in ROLES}
        fixed, moving = images["fixed"], images["moving"]
        if fixed is None or moving is None:
            raise ValueError(f"a batch needs fixed and moving images, got {', '.join(map(str, batchdata))}")
        return moving, fixed, (fixed,), {key: moved(key) for key in ("moving_weight", "fixed_weight")}


AlignPairD = AlignPairDict = AlignPaird
