# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Training pairs for a registration network: formed from the subjects of a datalist, checked, read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from ..errors import InputError
from ..geometry import Grid, apply_affine, warp
from ..inferers.network_input import MIN_NETWORK_VOXELS
from ..io import read_image, read_mask
from ..io.masks import placed_like
from ..registration import RegistrationConfig
from ..registration.start.initial import check_overlap
from ..roles import ROLES
from .alignment import checked_spacing
from .annotations import read_label, read_landmarks
from .datalist import checked_path, load_datalist, refuse, section_of, stem
from .pairs import ReadPaird

__all__ = [
    "ReadTrainingPairD",
    "ReadTrainingPairDict",
    "ReadTrainingPaird",
    "check_training_pairs",
    "training_pairs",
]

PAIRINGS = ("within", "across", "all")
FILE_KEYS = {role: (role, f"{role}_label", f"{role}_mask", f"{role}_landmarks") for role in ROLES}
SPLIT_SECTIONS = ("training", "validation")


def training_pairs(
    datalist: str | PathLike[str] | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    section: str = "training",
    pairing: str = "across",
    dataset_dir: str | PathLike[str] | None = None,
    validation_fraction: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Pairs of fixed and moving images to train or validate a network, with every path checked.

    ``datalist`` is a JSON file (or its content) ``{"training": [...], "validation": [...]}``, or just the list of the
    training subjects. A subject is ``{"name": ..., "fixed": ..., "moving": ...}``, its images of the two
    modalities, optionally with ``"fixed_label"``, ``"fixed_mask"``, ``"fixed_landmarks"`` and the same for ``"moving"``.
    Landmarks are CSV files with the header ``x,y,z`` and one point per line, world RAS mm.

    Args:
        datalist: see above.
        section: name of the list in the datalist.
        pairing: ``"within"`` registers each subject's moving image to its own fixed image, ``"across"`` to the fixed images of
            all others, ``"all"`` to both.
        dataset_dir: base of relative paths; by default the folder of the datalist.
        validation_fraction: fraction of the training subjects reserved for validation, the same ones for the same seed. A
            datalist with a list ``"validation"`` is not split.
        limit: maximum number of pairs, drawn at random so that all subjects occur about equally often.
        seed: for the split and the drawing.

    Returns:
        for each pair its ``"name"``, ``<moving subject>_to_<fixed subject>``, and the absolute paths under the keys above,
        those of ``"fixed"`` from one subject and those of ``"moving"`` from the other.

    Raises:
        InputError: if something is missing, in one line.
    """
    _check_options(pairing, validation_fraction, limit, seed)
    content, source, base = load_datalist(datalist)
    base = base if dataset_dir is None else checked_path(dataset_dir, "dataset_dir")
    lists = content if isinstance(content, Mapping) else {"training": content}
    if section in SPLIT_SECTIONS and "validation" not in lists and validation_fraction is not None:
        subjects = _subjects(lists, source, "training", base)
        subjects = _divided(subjects, section, validation_fraction, seed, source)
    elif section == "validation" and section not in lists:
        raise InputError(f"{source}: has no list validation; add one, or set validation_fraction")
    else:
        subjects = _subjects(lists, source, section, base)
        _check_disjoint(subjects, lists, section, source, base)
    number = len(subjects)
    if pairing == "across" and number < 2:
        raise InputError(
            f'{source}: one subject for {section}, {subjects[0]["name"]}; pairing "across" needs two, add some or take "within"'
        )
    wanted = {"within": np.eye(number) > 0, "across": np.eye(number) == 0, "all": np.ones((number, number)) > 0}[pairing]
    chosen = wanted if limit is None else _drawn(wanted, limit, np.random.default_rng([seed, 1]))
    return [_pair(subjects[i], subjects[j]) for i, j in np.argwhere(chosen).tolist()]


def _check_options(pairing: str, validation_fraction: float | None, limit: int | None, seed: int) -> None:
    if pairing not in PAIRINGS:
        raise InputError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
    if validation_fraction is not None and not _between(validation_fraction, 0, 1):
        raise InputError(f"validation_fraction must lie between 0 and 1, got {validation_fraction!r}")
    for name, value, least in (("limit", limit, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InputError(f"{name} must be a whole number, {least} or more, got {value!r}")


def _between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low < value < high


def _subjects(lists: Mapping[str, Any], source: str, section: str, base: Path) -> list[dict[str, str]]:
    """The subjects of a list with names and absolute paths; one message lists all faults."""
    items, source = section_of(lists, source, section, "subject, its fixed and its moving image")
    subjects: list[dict[str, str]] = []
    faults: list[str] = []
    for number, item in enumerate(items):
        where = f"subject {number + 1}"
        if not isinstance(item, Mapping):
            faults.append(f"{where} is {item!r}, not an object with fixed and moving")
            continue
        subject = _subject(item, base, where)
        where += f" ({subject['name']})"
        faults += [f"{where} has no {key}" for key in ROLES if key not in subject]
        known = [key for keys in FILE_KEYS.values() for key in keys]
        for key in item:
            if str(key).startswith(ROLES) and key not in known:
                faults.append(f"{where} has the unknown key {key}, known are {', '.join(known)}")
        faults += [f"{where}: {k} {subject[k]}: no such file" for k in known if k in subject and not Path(subject[k]).exists()]
        if subject["name"] in [other["name"] for other in subjects]:
            faults.append(f'{where} has the name of another subject; give each its own "name"')
        subjects.append(subject)
    refuse(faults, source)
    return subjects


def _subject(item: Mapping[str, Any], base: Path, where: str) -> dict[str, str]:
    given = [key for keys in FILE_KEYS.values() for key in keys if item.get(key) is not None]
    paths = {key: str((base / checked_path(item[key], f"{where}: {key}")).absolute()) for key in given}
    return {"name": str(item.get("name") or item.get("id") or stem(paths.get("fixed", "")) or where), **paths}


def _check_disjoint(
    subjects: Sequence[Mapping[str, str]], lists: Mapping[str, Any], section: str, source: str, base: Path
) -> None:
    """Training subjects must not be used for evaluation."""
    other = "validation" if section == "training" else "training"
    items = lists.get(other) if section != other else None
    items = [item for item in items if isinstance(item, Mapping)] if isinstance(items, Sequence) else []
    taken = {value for n, item in enumerate(items) for value in _identity(item, base, f"{other}, subject {n + 1}")}
    for subject in subjects:
        if not taken.isdisjoint(_identity(subject, base, subject["name"])):
            raise InputError(
                f"{source}: subject {subject['name']}, or an image of it, is in both {section} and {other}; leave it in one"
            )


def _identity(item: Mapping[str, Any], base: Path, where: str) -> set[tuple[str, str]]:
    subject = _subject(item, base, where)
    return {("name", subject["name"]), *(("image", subject[key]) for key in ROLES if key in subject)}


def _divided(subjects: Sequence[dict[str, str]], section: str, fraction: float, seed: int, source: str) -> list[dict[str, str]]:
    """The training subjects that belong to a section, in their order."""
    number = len(subjects)
    kept = number - round(fraction * number)
    if kept in (0, number):
        which = "training" if kept == 0 else "validation"
        raise InputError(
            f"{source}: validation_fraction {fraction:g} of {number} subjects leaves none for {which}; change it, or add some"
        )
    order = np.random.default_rng([seed, 0]).permutation(number)
    mine = order[:kept] if section == "training" else order[kept:]
    return [subjects[i] for i in sorted(mine.tolist())]


def _drawn(wanted: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Draw some of the wanted pairs, ``(N, N)`` bool, fixed subject first, with all subjects about equally often.

    Each draw prefers subjects in the fewest pairs, then those that have been fixed (or moving) least often.
    """
    left, chosen = wanted.copy(), np.zeros_like(wanted)
    uses = np.zeros((2, len(wanted)))  # as fixed, as moving
    for _ in range(min(limit, int(wanted.sum()))):
        i = _least(uses, 0, left.any(1), rng)
        uses[0, i] += 1
        j = _least(uses, 1, left[i], rng)
        uses[1, j] += 1
        left[i, j], chosen[i, j] = False, True
    return chosen


def _least(uses: np.ndarray, role: int, possible: np.ndarray, rng: np.random.Generator) -> int:
    chance = np.asarray(rng.random(uses.shape[1]))
    return int(np.lexsort((chance, uses[role], uses.sum(0), ~possible))[0])  # the last key is the primary one


def _pair(fixed: Mapping[str, str], moving: Mapping[str, str]) -> dict[str, str]:
    paths = {key: subject[key] for role, subject in zip(ROLES, (fixed, moving)) for key in FILE_KEYS[role] if key in subject}
    return {"name": f"{moving['name']}_to_{fixed['name']}", **paths}


def check_training_pairs(
    pairs: Sequence[Mapping[str, str]],
    spacing: float,
    preset: RegistrationConfig | Mapping[str, Any] | str = "default",
) -> None:
    """Read every file once, so that files that a network cannot be trained on are found before training.

    Args:
        pairs: from :func:`training_pairs`.
        spacing: voxel size of the network's grid, mm.
        preset: settings of the alignment, see :func:`monai_locor.register`.

    Raises:
        InputError: for the first file that cannot be used, or pair that does not match.
    """
    config = RegistrationConfig.of(preset)
    spacing = checked_spacing(spacing)
    grids: dict[str, Grid] = {}
    points: dict[tuple[str, ...], torch.Tensor] = {}
    for role in ROLES:
        for path in dict.fromkeys(pair[role] for pair in pairs):
            if path not in grids:
                grids[path] = Grid.of(read_image(path, role)[0])
                _check_dims(f"{role} image {path}", grids[path], next(iter(grids)), next(iter(grids.values())))
            _check_size(f"{role} image {path}", grids[path], spacing if role == "fixed" else None)
        for given in dict.fromkeys(tuple(pair.get(key, "") for key in FILE_KEYS[role]) for pair in pairs):
            image, label, mask, landmarks = given
            if label:
                _check_meets(f"{role} label {label}", read_label(label, role), image, grids[image])
            if mask:
                _check_meets(f"{role} mask {mask}", read_mask(mask, role), image, grids[image])
            if landmarks:
                points[given] = read_landmarks(landmarks, role)
                _check_landmarks(f"{role} landmarks {landmarks}", points[given], image, grids[image])
    for pair in pairs:
        fixed, moving = (points.get(tuple(pair.get(key, "") for key in FILE_KEYS[role])) for role in ROLES)
        _check_match(pair, fixed, moving)
        if config.initialization == "world":
            _check_world(pair, grids)


def _check_dims(name: str, grid: Grid, first: str, of_first: Grid) -> None:
    if grid.dims != of_first.dims:
        raise InputError(
            f"{name}: is {grid.dims}-D, {grid.shape}, and {first} is {of_first.dims}-D, {of_first.shape}; the images for a "
            "network must be all 2-D or all 3-D; remove the others"
        )


def _check_size(name: str, grid: Grid, spacing: float | None) -> None:
    """An image needs enough voxels; a fixed image also enough voxels of the network's size."""
    if min(grid.shape) < 2:
        raise InputError(f"{name}: has one voxel along an axis, {grid.shape}; remove it, or train on 2-D images")
    if spacing is not None and min(grid.resampled([spacing] * grid.dims).shape) < MIN_NETWORK_VOXELS:
        most = float(((np.array(grid.shape) - 1) * grid.spacing).min()) / (MIN_NETWORK_VOXELS - 1)
        size = " x ".join(f"{mm:.4g}" for mm in grid.extent)
        raise InputError(
            f"{name}: its {size} mm cover fewer than {MIN_NETWORK_VOXELS} voxels of {spacing:g} mm along an axis; "
            f"remove it, or choose a spacing of at most {math.floor(most * 1000) / 1000:g} mm"
        )


def _check_meets(name: str, volume: MetaTensor, image: str, grid: Grid) -> None:
    """A label map or mask, on any grid, must overlap its image."""
    volume = placed_like(volume, grid, name)
    own = Grid.of(volume)
    if own.dims != grid.dims:
        raise InputError(
            f"{name}: is {own.dims}-D, {own.shape}, and its image {image} {grid.dims}-D; give one of the same dimension"
        )
    if not bool(warp(volume, own, None, grid, mode="nearest").any()):
        raise InputError(
            f"{name}: is zero everywhere in the field of view of {image}; check that they belong together and share world "
            "coordinates"
        )


def _check_landmarks(name: str, points: torch.Tensor, image: str, grid: Grid) -> None:
    if points.shape[1] != grid.dims:
        raise InputError(f"{name}: has {points.shape[1]} coordinates a point, and its image {image} {grid.dims} axes")
    voxels = apply_affine(np.linalg.inv(grid.affine), points.numpy())
    if not ((voxels >= -0.5) & (voxels <= np.array(grid.shape) - 0.5)).all(1).any():
        raise InputError(
            f"{name}: no point lies in the field of view of {image}, the first is {points[0].tolist()}; points are in world "
            "coordinates, RAS mm (of LPS, x and y change sign)"
        )


def _check_match(pair: Mapping[str, str], fixed: torch.Tensor | None, moving: torch.Tensor | None) -> None:
    """Either both images have landmarks, or neither."""
    if fixed is None and moving is None:
        return
    if fixed is None or moving is None:
        has, lacks = ("fixed", "moving") if moving is None else ("moving", "fixed")
        raise InputError(
            f"pair {pair['name']}: {has} landmarks {pair[f'{has}_landmarks']} and no {lacks}_landmarks; give both or none"
        )
    if len(fixed) != len(moving):
        raise InputError(
            f"pair {pair['name']}: {len(fixed)} fixed landmarks in {pair['fixed_landmarks']} and {len(moving)} moving ones in "
            f"{pair['moving_landmarks']}; give the same points in the same order"
        )


def _check_world(pair: Mapping[str, str], grids: Mapping[str, Grid]) -> None:
    fixed, moving = grids[pair["fixed"]], grids[pair["moving"]]
    try:
        check_overlap(fixed, moving, np.eye(fixed.dims + 1))
    except InputError as error:
        raise InputError(f"{pair['fixed']} and {pair['moving']}: {error}") from error


class ReadTrainingPaird(MapTransform):
    """Read images and masks with :class:`.pairs.ReadPaird`, and label maps and landmarks if a pair has them.

    Those of ``key`` are read from ``key + "_label"`` and ``key + "_landmarks"``, and may be missing or None.

    Args:
        keys: of the images.
        allow_missing_keys: skip missing images.

    Returns:
        the dictionary with images, masks and label maps as MetaTensors ``(1, *spatial)`` float32, each on its own grid, and
        landmarks ``(N, D)`` float64, world RAS mm, instead of the file names.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, keys: KeysCollection = ROLES, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.images = ReadPaird(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        """Read the files of one pair.

        Raises:
            InputError: for a file that cannot be used.
        """
        d = self.images(data)
        for key in self.key_iterator(d):
            for name, read in ((f"{key}_label", read_label), (f"{key}_landmarks", read_landmarks)):
                if d.get(name) is not None:
                    d[name] = read(d[name], str(key))
        return d


ReadTrainingPairD = ReadTrainingPairDict = ReadTrainingPaird
