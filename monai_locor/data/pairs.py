# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Read, check and collate pairs of images for an engine, each image on its own grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import PrepareBatch
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from ..errors import InputError
from ..geometry import Grid
from ..io import read_image, read_mask
from ..io.masks import mask_on_grid
from ..registration import RegistrationConfig, load_pair

__all__ = ["PrepareBatchPair", "ReadPairD", "ReadPairDict", "ReadPaird", "check_pairs", "pair_collate"]

logger = logging.getLogger(__name__)


class ReadPaird(MapTransform):
    """Read images with :func:`monai_locor.io.read_image` and their masks with :func:`monai_locor.io.read_mask`.

    The mask of ``key`` is read from ``key + "_mask"`` and may be missing or None. The mask is set to zero where voxels of
    the image are not finite; an image without a mask then gets one.

    Args:
        keys: of the images.
        allow_missing_keys: skip missing images.

    Returns:
        the dictionary with MetaTensors ``(1, *spatial)`` float32 instead of the file names.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, keys: KeysCollection = ("fixed", "moving"), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        """Read the images of one pair.

        Raises:
            InputError: for an image that cannot be registered.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image, valid = read_image(d[key], str(key))
            mask_key = f"{key}_mask"
            mask = None if d.get(mask_key) is None else read_mask(d[mask_key], str(key))
            d[key] = image
            if mask is not None or valid is not None:
                d[mask_key] = mask if valid is None else _masked(mask, image, valid, str(key))
        return d


def _masked(mask: MetaTensor | None, image: MetaTensor, valid: torch.Tensor, role: str) -> MetaTensor:
    """Voxel weights on the image's grid, zero where it is not valid."""
    weight = valid.float() if mask is None else mask_on_grid(mask, role, Grid.of(image)) * valid
    meta = {} if mask is None else {"filename_or_obj": mask.meta.get("filename_or_obj", "")}
    return MetaTensor(weight, affine=image.affine, meta=meta)


def check_pairs(pairs: Sequence[Mapping[str, Any]], preset: RegistrationConfig | Mapping[str, Any] | str = "default") -> None:
    """Read every pair once, so that input that cannot be registered is found before the first registration.

    Args:
        pairs: with ``"fixed"``, ``"moving"`` and masks as :func:`monai_locor.data.datalist.registration_pairs` gives them.
        preset: settings of the registration, see :func:`monai_locor.register`.

    Raises:
        InputError: for the first pair that cannot be registered; the message names its files.
    """
    config = RegistrationConfig.of(preset)
    for pair in pairs:
        masks = pair.get("fixed_mask"), pair.get("moving_mask")
        try:
            load_pair(pair["fixed"], pair["moving"], config, fixed_mask=masks[0], moving_mask=masks[1])
        except InputError as error:
            raise InputError(f"{pair['fixed']} and {pair['moving']}: {error}") from error


def pair_collate(items: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A batch of pairs as lists, since their grids differ: key to one value per pair, None where a pair has none."""
    keys = dict.fromkeys(key for item in items for key in item)
    return {key: [item.get(key) for item in items] for key in keys}


class PrepareBatchPair(PrepareBatch):
    """Turn a batch of pairs into the arguments of :class:`monai_locor.inferers.InstanceOptimizationInferer`.

    The evaluator passes ``fixed`` as the inferer's input, ``moving``, ``fixed_mask`` and ``moving_mask`` by name, all on its
    device.
    """

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, None, tuple[()], dict[str, Any]]:
        """Move a batch to the device, see :class:`monai.engines.PrepareBatch`."""

        def moved(images: Any) -> Any:
            if images is None or isinstance(images, torch.Tensor):
                return None if images is None else images.to(device=device, non_blocking=non_blocking, **kwargs)
            return [moved(image) for image in images]

        named = {key: moved(batchdata.get(key)) for key in ("moving", "fixed_mask", "moving_mask")}
        return moved(batchdata["fixed"]), None, (), named


ReadPairD = ReadPairDict = ReadPaird
