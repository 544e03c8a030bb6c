# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration as a step of a MONAI pipeline."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.utils import convert_to_tensor, ensure_tuple, ensure_tuple_rep, look_up_option
from monai.utils.enums import TransformBackends

from ..errors import InputError
from ..geometry import Grid, warped
from ..geometry.warping import MODES
from ..io.arrays import channel_first, is_placed
from ..io.image_source import load_source
from ..tensors import as_tensor, plain

if TYPE_CHECKING:
    from ..registration import RegistrationConfig, RegistrationResult

__all__ = ["RegisterD", "RegisterDict", "Registerd"]

logger = logging.getLogger(__name__)


class Registerd(MapTransform):
    """Register the moving to the fixed image of a dictionary, and resample all images of the moving space to the fixed grid.

    Resampled images replace those under their keys: MetaTensors ``(C, *fixed)`` with the affine of the fixed image, and the
    other meta data, type and device of the original. The fixed image and all other keys stay as they are. Each pair is
    registered with the same seed, so that the same pair gives the same result; on a GPU, and in a worker of a data loader,
    see ``device``.

    Example::

        Compose(
            [
                LoadImaged(["t2", "t1", "t1_labels", "t2_brain"]),
                EnsureChannelFirstd(["t2", "t1", "t1_labels", "t2_brain"]),
                Registerd(["t1", "t1_labels"], fixed_key="t2", mode=["bilinear", "nearest"], fixed_mask_key="t2_brain"),
                ConcatItemsd(["t2", "t1"], name="image"),
            ]
        )

    Args:
        keys: of the images in the moving space: the moving image first, then images, label maps and masks to warp with it, each
            on any grid. Tensors and arrays without an affine and with the shape of the moving image share its grid.
        fixed_key: of the fixed image, ``(1, *spatial)``, 2-D or 3-D; of several channels a list of keys, the first of which
            gives the grid.
        mode: ``"bilinear"``, ``"bspline"`` or ``"lanczos"``; for labels ``"nearest"`` or ``"smooth"``, see
            :func:`monai_locor.geometry.warp`; one for all or one for each key.
        moving_key: of the image that is registered, or of its channels, if that is not the first of ``keys``.
        fixed_mask_key, moving_mask_key: of masks. To warp the moving mask, also include it in ``keys``.
        ddf_key: of the output displacement, ``(D, *fixed)`` float32 in voxels of the fixed grid along its axes, see
            :attr:`monai_locor.RegistrationResult.forward_ddf`; none by default.
        verdict_key: of the output verdict, ``"PASS"``, ``"WARN"`` or ``"FAIL"``; none by default. Verdicts other than PASS
            are always logged as a warning.
        preset: see :func:`monai_locor.register`.
        transform: see there.
        similarity: see there.
        initial: see there.
        seed: see there.
        device: see there; in a worker process of a data loader that was forked, CUDA cannot be used: give ``"cpu"``.
        allow_missing_keys: do not raise an exception if a key is missing. Without the fixed or the moving image nothing is
            done.

    Raises:
        ValueError: for another mode, or keys that are named twice.
        KeyError: when called, if a key is missing and ``allow_missing_keys`` is not set.
        InputError: when called, for images that cannot be registered.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        keys: KeysCollection,
        fixed_key: KeysCollection,
        mode: str | Sequence[str] = "bilinear",
        *,
        moving_key: KeysCollection | None = None,
        fixed_mask_key: Hashable | None = None,
        moving_mask_key: Hashable | None = None,
        ddf_key: Hashable | None = None,
        verdict_key: Hashable | None = None,
        preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
        transform: str | None = None,
        similarity: Any = None,
        initial: Any = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fixed_key: tuple[Hashable, ...] = ensure_tuple(fixed_key)
        self.moving_key: tuple[Hashable, ...] = self.keys[:1] if moving_key is None else ensure_tuple(moving_key)
        if {*self.keys, *self.moving_key} & set(self.fixed_key) or len(set(self.keys)) != len(self.keys):
            raise ValueError(f"the fixed key and keys must all differ, got {fixed_key!r} and {self.keys}")
        modes = ensure_tuple_rep(mode, len(self.keys))
        self.mode = tuple(look_up_option(str(getattr(m, "value", m)), MODES) for m in modes)
        self.mask_keys = {"fixed_mask": fixed_mask_key, "moving_mask": moving_mask_key}
        self.ddf_key, self.verdict_key = ddf_key, verdict_key
        self.options: dict[str, Any] = {
            **{"preset": preset, "transform": transform, "similarity": similarity},
            **{"initial": initial, "seed": seed, "device": device},
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: holds the images.

        Returns:
            a new dictionary, in which what lay in the moving space is replaced.
        """
        d = dict(data)
        carried = list(self.key_iterator(d, self.mode))
        absent = [key for key in (*self.fixed_key, *self.moving_key) if key not in d]
        if absent and self.allow_missing_keys:
            return d
        if absent:
            raise KeyError(f"Key `{absent[0]}` of transform `{type(self).__name__}` was missing in the data.")
        result, fixed = self._registered(d), d[self.fixed_key[0]]
        for key, mode in carried:
            d[key] = self._warped(result, data[key], str(key), mode, fixed)
        if self.ddf_key is not None:
            d[self.ddf_key] = self._on_fixed(result.forward_ddf, {}, fixed, result)
        if self.verdict_key is not None:
            d[self.verdict_key] = None if result.verdict is None else result.verdict.status
        return d

    def _registered(self, d: Mapping[Hashable, Any]) -> RegistrationResult:
        from ..registration import register  # which imports this package

        masks: dict[str, Any] = {}
        for name, key in self.mask_keys.items():
            if key is not None and (key in d or not self.allow_missing_keys):
                masks[name] = d[key]
        fixed, moving = ([d[key] for key in keys] for keys in (self.fixed_key, self.moving_key))
        one = len(fixed) == len(moving) == 1
        options = {**self.options, **masks, "progress": False}
        result = register(fixed[0] if one else fixed, moving[0] if one else moving, **options)
        if result.verdict is not None and result.verdict.status != "PASS":
            names = (", ".join(map(str, keys)) for keys in (self.moving_key, self.fixed_key))
            logger.warning("registration of %s to %s: %s", *names, result.verdict)
        return result

    def _warped(self, result: RegistrationResult, value: Any, key: str, mode: str, fixed: Any) -> torch.Tensor:
        """One image of the moving space on the fixed grid."""
        image = _channel_first(value, key, result.moving_grid)
        grid = Grid.of(image)
        if grid.dims != result.fixed_grid.dims:
            raise InputError(f"{key}: is {grid.dims}-D, the fixed image {result.fixed_grid.dims}-D; give images of one pair.")
        moved = warped(plain(image).cpu(), grid, result.forward_mm, result.fixed_grid, mode)
        meta = {name: item for name, item in image.meta.items() if name != "affine"}
        return self._on_fixed(moved, meta, fixed, result).to(image.device)

    def _on_fixed(self, values: torch.Tensor, meta: dict[str, Any], fixed: Any, result: RegistrationResult) -> torch.Tensor:
        """Values on the fixed grid as the fixed image has it, with its affine."""
        shape = result.fixed_grid.shape
        affine = values.affine if isinstance(values, MetaTensor) else torch.tensor(result.fixed_grid.full_affine)
        if isinstance(fixed, torch.Tensor):
            known = tuple(fixed.shape[1:])  # with trailing axes of one voxel
            shape = known if known[: len(shape)] == shape and set(known[len(shape) :]) <= {1} else shape
            affine = fixed.affine if isinstance(fixed, MetaTensor) else affine
        out = MetaTensor(plain(values).reshape(-1, *shape), affine=affine.clone(), meta={**meta, "spatial_shape": shape})
        return convert_to_tensor(out, track_meta=get_track_meta())


def _channel_first(value: Any, key: str, moving: Grid) -> MetaTensor:
    """``(C, *spatial)`` of the dimensions of the moving image, in its own type, with its affine."""
    placed = is_placed(value)
    voxels = value[0] if placed else value
    if isinstance(voxels, np.ndarray) and voxels.dtype.kind in "biuf":  # load_source would change the type, and so labels
        voxels = as_tensor(voxels)
    if not isinstance(voxels, torch.Tensor):
        return load_source(value, key, "all")[1]
    value = (voxels, value[1]) if placed else voxels
    tensor, affine, _ = channel_first(value, key, torch.float32, known=True)
    while tensor.ndim - 1 > moving.dims and tensor.shape[-1] == 1:
        tensor = tensor[..., 0]
    if not placed and not isinstance(value, MetaTensor) and tuple(tensor.shape[1:]) == moving.shape:
        affine = moving.affine
    given = value.meta if isinstance(value, MetaTensor) else {}
    meta = {name: item for name, item in given.items() if name not in ("affine", "original_channel_dim")}
    return MetaTensor(tensor, affine=torch.from_numpy(np.array(affine)), meta=meta)


RegisterD = RegisterDict = Registerd
