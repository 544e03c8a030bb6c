# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Descriptions of transforms, images and points, as numbers and as text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..geometry import Grid, SpatialTransform
    from ..io.stored_image import StoredImage

__all__ = ["describe_grid", "describe_image", "describe_transform", "kind_of", "lines_of"]

WORLD = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


def kind_of(transform: SpatialTransform) -> str:
    """The parts of a transform in the order in which they map a point: ``displacement field, then affine``."""
    words = {"AffineStep": "affine", "FieldStep": "displacement field", "SplineStep": "B-spline"}
    if transform.is_affine:
        return "affine"
    return ", then ".join(words.get(type(step).__name__, type(step).__name__) for step in transform.steps)


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Size, spacing, field of view, position and orientation."""
    import numpy as np

    affine = grid.affine if grid.plane is None else grid.full_affine
    axes = affine[:-1, : grid.dims] / grid.spacing
    letters = "RAS"[: len(axes)], "LPI"[: len(axes)]
    code, tilt = "", 0.0
    for column in axes.T:
        world = int(np.argmax(np.abs(column)))
        code += letters[0 if column[world] > 0 else 1][world]
        tilt = max(tilt, math.degrees(math.acos(min(1.0, abs(float(column[world]))))))
    sheared = not np.allclose(axes.T @ axes, np.eye(grid.dims), atol=1e-4)
    middle = np.pad((np.array(grid.shape) - 1) / 2, (0, len(axes) - grid.dims))
    return {
        "shape": list(grid.shape),
        "spacing_mm": grid.spacing.tolist(),
        "extent_mm": grid.extent.tolist(),
        "center_mm": (affine[:-1, :-1] @ middle + affine[:-1, -1]).tolist(),
        "orientation": code,
        "oblique_degrees": round(tilt, 3),
        "sheared": sheared,
        "affine": affine.tolist(),
    }


def describe_image(image: StoredImage, grid: Grid) -> dict[str, Any]:
    """Describe an image.

    Args:
        image: the stored image.
        grid: its grid.
    """
    import numpy as np

    from ..io.content_detection import labels_in

    stored = np.asarray(image.voxels)  # OME-Zarr is read only now
    voxels = stored if stored.dtype.kind != "b" else stored.astype(np.uint8)
    values = voxels[np.isfinite(voxels)]
    found: dict[str, Any] = {
        "what": "image",
        **describe_grid(grid),
        "channels": voxels.shape[-1],
        "channel_names": list(image.channels),
        "dtype": image.dtype,
        "not_finite": voxels.size - values.size,
        "time": None if image.time is None else image.time._asdict(),
        "intent": image.intent,
        "intent_name": image.intent_name,
    }
    if len(values):
        places = {q: round(q * (len(values) - 1)) for q in (0, 0.01, 0.5, 0.99, 1)}
        ordered = np.partition(values, sorted(set(places.values())))
        at = [float(ordered[k]) for k in places.values()]
        found["intensity"] = dict(zip(("min", "p01", "median", "p99", "max"), at, strict=True))
        found["zero_percent"] = 100 * float((values == 0).mean())
        labels = labels_in(np.moveaxis(voxels, -1, 0).reshape(-1, *grid.shape), image.intent)
        if labels is not None:
            found["labels"] = labels
    return found


def describe_transform(transform: SpatialTransform, grid: Grid | None) -> dict[str, Any]:
    """Describe a transform; with a grid also its displacements and Jacobian determinants."""
    from ..metrics.arrays import field_statistics, jacobian_statistics_of_array

    found: dict[str, Any] = {"what": "transform", "kind": kind_of(transform), "dims": transform.dims}
    found["holds_inverse"] = transform.inverse_steps is not None
    if transform.is_affine:
        found["affine"] = _affine_parts(transform.matrix)
    if grid is None:
        return found
    field = transform.displacement_array(grid)
    found["grid"] = describe_grid(grid)
    found["displacement_mm"] = field_statistics(field)
    found["jacobian"] = jacobian_statistics_of_array(field, grid)
    return found


def _affine_parts(matrix: np.ndarray) -> dict[str, Any]:
    """Rotation (degrees), scaling along the principal axes and translation (mm) of a matrix, RAS."""
    import numpy as np

    matrix = matrix + 0.0  # turns -0 into 0
    linear = matrix[:-1, :-1]
    left, stretches, right = np.linalg.svd(linear)
    rotation = left @ right
    dims = len(linear)
    if np.linalg.det(rotation) < 0:
        angle = None  # a reflection
    elif dims == 2:
        angle = abs(math.degrees(math.atan2(rotation[1, 0], rotation[0, 0])))
    else:
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (np.trace(rotation) - 1) / 2))))
    return {
        "matrix": matrix.tolist(),
        "rotation_degrees": angle,
        "stretches": stretches.tolist(),
        "determinant": float(np.linalg.det(linear)),
        "translation_mm": matrix[:-1, -1].tolist(),
    }


def lines_of(path: Path, found: dict[str, Any]) -> list[str]:
    """A description as lines of text."""
    if found["what"] == "check":
        return []
    if found["what"] == "image":
        return _image_lines(path, found)
    if found["what"] == "points":
        low, high = (" x ".join(f"{v:.1f}" for v in found[k]) for k in ("min_mm", "max_mm"))
        return [f"{path}: {found['count']} points in {found['dims']}-D, from ({low}) to ({high}) mm RAS"]
    return _transform_lines(path, found)


def _image_lines(path: Path, found: dict[str, Any]) -> list[str]:
    from ..io.stored_image import named_channels

    labels = found.get("labels")
    what = "image" if labels is None else "mask" if len(labels) <= 2 else "label map"
    lines = [f"{path}: {len(found['shape'])}-D {what}, {_grid_line(found)}"]
    lines.append(_place_line(found))
    parts = [f"voxels of type {found['dtype']}"]
    if found["channels"] > 1:
        parts.append(f"{found['channels']} channels or frames{named_channels(found['channel_names'])}")
    if "intensity" in found:
        i = found["intensity"]
        parts.append(f"values {i['min']:.4g} to {i['max']:.4g} (1 % below {i['p01']:.4g}, median {i['median']:.4g}, ")
        parts[-1] += f"1 % above {i['p99']:.4g}), {found['zero_percent']:.0f} % zero"
    parts += _header_notes(found)
    parts.append(f"{found['not_finite']} NaN or infinite" if found["not_finite"] else "all finite")
    lines.append("; ".join(parts))
    if labels is not None:
        shown = [v for v in labels if v][:16]
        count = sum(map(bool, labels))
        more = ", ..." if count > len(shown) else ""
        lines.append(f"{count} label{'s' * (count != 1)}: {', '.join(map(str, shown))}{more}")
    if "hint" in found:
        lines.append(f"if this is a transform: {found['hint']}")
    return lines


def _header_notes(found: dict[str, Any]) -> list[str]:
    """Time axis and intent, if the header has them."""
    notes, time = [], found["time"]
    if time is not None:
        unit = {"unknown": "(unit unknown)"}.get(time["unit"], time["unit"])
        notes.append(f"{time['step']:.6g} {unit} between frames")
        notes[0] += f", the first at {time['offset']:.6g} {unit}" * bool(time["offset"])
    if found["intent"] or found["intent_name"]:
        name = f"name {found['intent_name']!r}" if found["intent_name"] else ""
        notes.append("intent " + ", ".join(filter(None, (found["intent"], name))))
    return notes


def _grid_line(found: dict[str, Any]) -> str:
    size, spacing, extent = (found[k] for k in ("shape", "spacing_mm", "extent_mm"))
    return (
        f"{'x'.join(map(str, size))} voxels of {'x'.join(f'{s:.3g}' for s in spacing)} mm, "
        f"field of view {'x'.join(f'{e:.4g}' for e in extent)} mm"
    )


def _place_line(found: dict[str, Any]) -> str:
    towards = ", ".join(WORLD[letter] for letter in found["orientation"])
    tilt = f", oblique by {found['oblique_degrees']:.1f} degrees" if found["oblique_degrees"] > 0.05 else ""
    shear = ", axes not at right angles (ITK may refuse it)" if found["sheared"] else ""
    center = ", ".join(f"{c:.1f}" for c in found["center_mm"])
    return f"orientation {found['orientation']} (axes run to the {towards}){tilt}{shear}; center at ({center}) mm RAS"


def _transform_lines(path: Path, found: dict[str, Any]) -> list[str]:
    from .jacobian import folding_line

    lines = [f"{path}: {found['dims']}-D transform from fixed to moving points: {found['kind']}"]
    lines[0] += ", with its inverse" * found["holds_inverse"]
    if "affine" in found:
        a = found["affine"]
        turn = "reflection" if a["rotation_degrees"] is None else f"rotation {a['rotation_degrees']:.2f} degrees"
        stretch = " x ".join(f"{s:.4g}" for s in a["stretches"])
        shift = ", ".join(f"{t:.3f}" for t in a["translation_mm"])
        lines.append(f"{turn}, scaling {stretch}, volume change {a['determinant']:.4g}, translation ({shift}) mm RAS")
        lines += ["  " + "  ".join(f"{v:12.6f}" for v in row) for row in a["matrix"]]
    if "grid" in found:
        d = found["displacement_mm"]
        lines.append(f"on {_grid_line(found['grid'])}, {_place_line(found['grid'])}")
        lines.append(f"displacement: mean {d['mean']:.3g} mm, 95 % below {d['p95']:.3g} mm, maximum {d['max']:.3g} mm")
        lines.append(folding_line(found["jacobian"]))
    return lines
