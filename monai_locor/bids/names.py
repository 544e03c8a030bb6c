# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Names of files in BIDS: those of the images of a pair, and those of its derivatives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath

from ..errors import InputError

__all__ = ["IMAGE_SUFFIXES", "BidsImage", "PairNames", "bids_image", "name_parts"]

IMAGE_SUFFIXES = (".nii.gz", ".nii")
VALUE = re.compile(r"[0-9A-Za-z+]+")
EXAMPLE = "sub-01/anat/sub-01_T1w.nii.gz"
# order of the entities that follow `space` in a name
AFTER_SPACE = ("split", "recording", "chunk", "atlas", "seg", "scale", "res", "den", "label", "desc")
OF_THE_GRID = ("space", "res", "den")  # describe the grid of an image, not its content
SEGMENTATIONS = ("mask", "dseg", "probseg")


@dataclass(frozen=True)
class BidsImage:
    """An image with the name and the folder that BIDS requires.

    Attributes:
        root: folder of the dataset. For a template (``tpl-*``) without the folders of TemplateFlow, the folder of the file.
        path: path relative to ``root``.
        entities: values by key, in the order of the name: ``{"sub": "01", "acq": "mprage"}``.
        suffix: ``T1w``.
    """

    root: Path
    path: PurePosixPath
    entities: Mapping[str, str]
    suffix: str

    @property
    def template(self) -> str:
        """Label of the template; empty for the image of a subject."""
        cohort = f"cohort{self.entities['cohort']}" if "cohort" in self.entities else ""
        return self.entities["tpl"] + cohort if "tpl" in self.entities else ""

    def space(self, other: BidsImage) -> str:
        """Label of the space of this image, as opposed to that of another one.

        It is the space or the template that the name states; otherwise all entities, without the subject and the session
        of the other image, and the suffix: ``T2w``, ``acqhighresT2w``, ``ses1T1w``.
        """
        if self.template or "space" in self.entities:
            return self.template or self.entities["space"]
        shared = {key for key in ("sub", "ses") if self.entities.get(key) == other.entities.get(key)}
        return "".join(f"{key}{value}" for key, value in self.entities.items() if key not in shared) + self.suffix


def name_parts(path: PathLike[str] | str) -> list[str]:
    """Entities and suffix of the name of an image, ``["sub-01", "T1w"]``; empty if it is not NIfTI.

    >>> name_parts("sub-01/anat/sub-01_acq-mprage_T1w.nii.gz"), name_parts("sub-01_T1w.json")
    (['sub-01', 'acq-mprage', 'T1w'], [])
    """
    name = Path(path).name
    end = next((end for end in IMAGE_SUFFIXES if name.endswith(end)), None)
    return name.removesuffix(end).split("_") if end else []


def bids_image(path: PathLike[str] | str, what: str) -> BidsImage:
    """Parse the path of an image. The file is not read, and links are not followed.

    Args:
        path: the file, in its dataset.
        what: name for messages.

    Raises:
        InputError: if name and folder are not those of an image in a BIDS dataset, or of a template.
    """
    place = Path(path).absolute()
    *pairs, suffix = name_parts(place) or [""]
    split = [pair.partition("-") for pair in pairs]
    entities = {key: value for key, _, value in split}
    words = [*entities, *entities.values(), suffix]
    known = next(iter(words)) in ("sub", "tpl") and len(entities) == len(pairs)  # no entity twice
    if not known or not all(VALUE.fullmatch(word) for word in words):
        raise InputError(f"{what} {path}: has no name of BIDS; name it like {EXAMPLE}, a template like tpl-NAME_T1w.nii.gz")
    folders = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    if "tpl" in entities:
        root = next((above.parent for above in place.parents if above.name == f"tpl-{entities['tpl']}"), place.parent)
    else:
        root = place.parents[len(folders) + 1] if len(place.parents) > len(folders) + 1 else place.parent
        if list(place.relative_to(root).parts[:-2]) != folders:
            raise InputError(f"{what} {path}: is not in {'/'.join(folders)}/DATATYPE, its folder in BIDS; move it there")
    return BidsImage(root, PurePosixPath(place.relative_to(root).as_posix()), entities, suffix)


@dataclass(frozen=True)
class PairNames:
    """Names of the derivatives of a pair, relative to the derivative dataset.

    Attributes:
        fixed, moving: the images.

    Raises:
        InputError: if the moving image is a template, or both have the same name.
    """

    fixed: BidsImage
    moving: BidsImage

    def __post_init__(self) -> None:
        name = self.moving.path.name
        if self.moving.template:
            raise InputError(f"moving image {name}: is a template, and derivatives belong to subjects; make it the fixed image")
        if len({*self._labels}) < 2:
            raise InputError(f"fixed and moving image {name}: their names do not tell two spaces apart; rename one")

    @classmethod
    def of(cls, fixed: PathLike[str] | str, moving: PathLike[str] | str) -> PairNames:
        """Parse the paths of both images, see :func:`bids_image`."""
        return cls(bids_image(fixed, "fixed image"), bids_image(moving, "moving image"))

    def resampled(self, image: BidsImage, to_fixed: bool = True) -> PurePosixPath | None:
        """Name of an image after resampling to the other space; None for a template.

        ``sub-01_T1w.nii.gz`` becomes ``sub-01_space-T2w_desc-registered_T1w.nii.gz``. Segmentations keep their description.
        """
        target, other = (self.fixed, self.moving) if to_fixed else (self.moving, self.fixed)
        if image.template:
            return None
        entities = {key: value for key, value in image.entities.items() if key not in OF_THE_GRID}
        if target.template and "res" in target.entities:
            entities["res"] = target.entities["res"]
        if image.suffix not in SEGMENTATIONS:
            entities["desc"] = f"{entities['desc']}Registered" if "desc" in entities else "registered"
        entities["space"] = target.space(other)
        return image.path.parent / f"{_joined(entities)}_{image.suffix}.nii.gz"

    def transform(self, suffix: str, ending: str, inverse: bool = False) -> PurePosixPath:
        """Name of a transform, or of a map or page that describes it.

        Args:
            suffix: of the name: ``xfm``.
            ending: of the file: ``.h5``.
            inverse: whether it resamples the fixed image to the grid of the moving one.
        """
        kept = {key: value for key, value in self.moving.entities.items() if key not in (*OF_THE_GRID, "desc", "label")}
        start, end = self._labels if inverse else self._labels[::-1]
        return self.moving.path.parent / f"{_joined(kept)}_from-{start}_to-{end}_mode-image_{suffix}{ending}"

    @property
    def warped(self) -> list[PurePosixPath]:
        """Names of both warped images; a template has none."""
        names = [self.resampled(self.moving), self.resampled(self.fixed, to_fixed=False)]
        return [name for name in names if name is not None]

    @property
    def _labels(self) -> tuple[str, str]:
        """Labels of the spaces of the fixed and the moving image; the entities of the latter are in the name anyway."""
        fixed = self.fixed.space(self.moving)
        moving = self.moving.entities.get("space", self.moving.suffix)
        return fixed, self.moving.space(self.fixed) if moving == fixed else moving


def _joined(entities: Mapping[str, str]) -> str:
    """Entities in the order of BIDS."""
    before = [key for key in entities if key not in ("space", *AFTER_SPACE)]
    after = [key for key in ("space", *AFTER_SPACE) if key in entities]
    return "_".join(f"{key}-{entities[key]}" for key in (*before, *after))
