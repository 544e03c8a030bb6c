# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Names of voxel components, from the metadata that ITK reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["NAMING", "channel_names"]

NAMING = ("NRRD_kinds", "Segment", "DWMRI_gradient")  # prefixes of header entries that name channels

_COLORS = ("red", "green", "blue", "alpha")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def channel_names(path: Path, count: int, header: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the components of an image: colors, layers of a Slicer segmentation, gradients of a diffusion image.

    Args:
        path: path of the image file.
        count: number of components.
        header: the file's metadata under ITK's keys.

    >>> channel_names(Path("a.png"), 3, {})
    ('red', 'green', 'blue')
    """
    kind = header.get("NRRD_kinds[pixel]", "")
    if count in (3, 4) and (path.suffix.lower() in _PICTURES or kind.startswith("RGB")):
        return _COLORS[:count]
    layers = _layers(count, header)
    if layers:
        return layers
    gradients = [header.get(f"DWMRI_gradient_{k:04}", "") for k in range(count)]
    if count > 1 and all(gradients):
        return tuple(f"gradient {' '.join(gradient.split())}" for gradient in gradients)
    return ()


def _layers(count: int, header: Mapping[str, str]) -> tuple[str, ...]:
    """Segments in each layer of a ``.seg.nrrd``, with their labels."""
    segments: list[list[str]] = [[] for _ in range(count)]
    for key, layer in header.items():
        if not key.startswith("Segment") or not key.endswith("_Layer") or not layer.isdecimal() or int(layer) >= count:
            continue
        name, value = (header.get(key.replace("_Layer", field), "?") for field in ("_Name", "_LabelValue"))
        segments[int(layer)].append(f"{name} = {value}")
    return tuple("layer of " + ", ".join(layer) for layer in segments) if count > 1 and all(segments) else ()
