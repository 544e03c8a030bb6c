# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The derivatives of one pair: which files there are, and what their sidecars say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..io.paths import FORWARD, INVERSE
from ..registration.manifest import RunManifest, well_formed
from ..roles import ROLES
from .dataset import DerivativeDataset, metadata_of
from .files import DIGEST, XFM_ENDINGS, DerivedFile, copied, digest_of, transform_writer
from .names import BidsImage, PairNames, bids_image

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["DerivedPair"]


@dataclass(frozen=True)
class _Companion:
    """A file about a transform: its name in the output folder, its suffix and ending in BIDS, and what its sidecar says."""

    output: str
    suffix: str
    text: str
    ending: str = ".nii.gz"
    units: str = ""
    on_moving: bool = False


COMPANIONS = (
    _Companion("jacobian.nii.gz", "jacobian", "Jacobian determinant of the transform"),
    _Companion(
        "error.nii.gz",
        "error",
        "Expected registration error, its lower and its upper bound along the last axis; NaN where not determined",
        units="mm",
    ),
    _Companion("missing_fixed.nii.gz", "missing", "Probability that the moving image lacks the tissue of a voxel"),
    _Companion(
        "missing_moving.nii.gz", "missing", "Probability that the fixed image lacks the tissue of a voxel", on_moving=True
    ),
    _Companion("report.html", "report", "Report of the registration", ending=".html"),
)
# files with the transform (False) and with its inverse (True)
TRANSFORMS = {
    False: {FORWARD, "transform.h5", "ants_1Warp.nii.gz"},
    True: {INVERSE, "transform_inverse.h5", "ants_1InverseWarp.nii.gz"},
}
# parts of run.json in the sidecar of a transform
RECORDED = {
    "Settings": "settings",
    "Seed": "seed",
    "Jacobian": "jacobian",
    "ErrorMM": "error_mm",
    "SoftwareVersions": "versions",
}


class DerivedPair:
    """The derivatives of the pair in an output folder of ``register``.

    Args:
        folder: the output folder.
        dataset: the derivative dataset; links to the datasets of the images are added to its description.
        xfm: ending of the transforms.

    Attributes:
        folder: the output folder.
        names: names of the derivatives.
        files: the files to write.

    Raises:
        InputError: if the result is incomplete, or its images have no names of BIDS.
    """

    def __init__(self, folder: Path, dataset: DerivativeDataset, xfm: str) -> None:
        self.folder, self._dataset, self._xfm = folder, dataset, xfm
        self._manifest = RunManifest.load(folder)
        self._run: Mapping[str, Any] = self._manifest.content
        if self._run.get("interrupted"):
            raise InputError(f"results {folder}: the registration was interrupted; repeat it")
        self._digest = f"sha256:{hashlib.sha256(self._manifest.path.read_bytes()).hexdigest()}"
        with well_formed(self._manifest.path):
            images = {role: self._input(role) for role in ROLES}
            self.names = PairNames(images["fixed"][0], images["moving"][0])
            self._inputs = {role: [dataset.uri(image) for image in each] for role, each in images.items()}
            self._uris = {role: uris[0] for role, uris in self._inputs.items()}
            dataset.generated_by(self._run["versions"]["monai_locor"])
            self._xfms = self._transforms()
            self.files = [*self._xfms.values(), *self._images(), *self._carried(), *self._companions()]
        if not self.files:
            raise InputError(f"results {folder}: has no output that is a derivative; register with --outputs warped,forward")

    def made(self, path: Path) -> bool:
        """Whether an existing file is of this registration."""
        return digest_of(path) == self._digest

    @property
    def possible(self) -> set[PurePosixPath]:
        """All names that files of this pair may have, with any outputs of the registration."""
        names = [self.names.transform("xfm", ending, back) for ending in XFM_ENDINGS for back in (False, True)]
        names += [self.names.transform(each.suffix, each.ending, each.on_moving) for each in COMPANIONS]
        return {*names, *self.names.warped, *(file.path for file in self.files)}

    def _input(self, role: str) -> list[BidsImage]:
        """The images of one side; the first one names it."""
        entry = self._run["arguments"][role]
        several = entry.get("list", [entry])
        if not all("path" in each for each in several):
            raise InputError(f"results {self.folder}: the {role} image was in memory and has no name of BIDS; register files")
        return [bids_image(each["path"], f"{role} image") for each in several]

    def _transforms(self) -> dict[bool, DerivedFile]:
        """The transform under False, its inverse under True, as far as the folder has them."""
        linear = self._run["settings"].get("transform", "deformable") != "deformable"
        found = {each.name for each in self.folder.iterdir()}
        return {back: self._transform(back) for back in (False, True) if linear or found & TRANSFORMS[back]}

    def _transform(self, inverse: bool) -> DerivedFile:
        grid = self._grid("moving" if inverse else "fixed")
        source, target = ("fixed", "moving") if inverse else ("moving", "fixed")
        text = f"Transform that resamples the {source} image to the grid of the {target} image"
        about = {
            "Description": f"{text}; it maps points of the {target} image to points of the {source} image",
            "FixedImage": self._uris["fixed"],
            "MovingImage": self._uris["moving"],
            "Verdict": self._verdict(),
            **{key: self._run.get(name) for key, name in RECORDED.items()},
        }
        about = {key: value for key, value in about.items() if value is not None}
        name = self.names.transform("xfm", self._xfm, inverse)
        return self._file(name, transform_writer(self.folder, grid, inverse), about, (source, target))

    def _grid(self, role: str) -> Grid:
        from ..geometry import Grid

        entry = self._run[f"{role}_grid"]
        return Grid.placed(entry["shape"], np.array(entry["affine"]))

    def _verdict(self) -> dict[str, Any] | None:
        """Status, measures, and the reasons other than PASS."""
        verdict = self._run["verdict"]
        if verdict is None:
            return None
        reasons = [reason for reason in verdict["reasons"] if reason["status"] != "PASS"]
        return {"status": verdict["status"], "reasons": reasons, "measures": verdict["measures"]}

    def _images(self) -> Iterator[DerivedFile]:
        for output, image, to_fixed in (("warped", self.names.moving, True), ("warped_fixed", self.names.fixed, False)):
            yield from self._resampled(self.folder / f"{output}.nii.gz", image, to_fixed)

    def _carried(self) -> Iterator[DerivedFile]:
        """Label maps and images that were transformed along, if they have names of BIDS."""
        for each in self._run.get("carried", ()):
            if each["kind"] == "points" or "output" not in each:
                continue
            try:
                image = bids_image(each["input"], "input")
            except InputError:
                continue
            yield from self._resampled(self.folder / Path(each["output"]).name, image, each["space"] == "moving")

    def _resampled(self, source: Path, image: BidsImage, to_fixed: bool) -> Iterator[DerivedFile]:
        """An image on the grid of the other one."""
        name = self.names.resampled(image, to_fixed)
        if name is None or not source.is_file() or not source.name.endswith(".nii.gz"):
            return
        target = "fixed" if to_fixed else "moving"
        about = {
            "SkullStripped": False,  # the registration strips nothing
            **metadata_of(image),
            "Description": f"{image.suffix} image resampled to the grid of the image in SpatialReference",
            "SpatialReference": self._uris[target],
            **({"Resolution": f"That of the {target} image"} if "_res-" in name.name else {}),
        }
        own = [self._dataset.uri(self._xfms[back].path) for back in self._xfms if back != to_fixed]
        yield self._file(name, copied(source), about, (self._dataset.uri(image), self._uris[target], *own))

    def _companions(self) -> Iterator[DerivedFile]:
        for each in COMPANIONS:
            if (self.folder / each.output).is_file():
                about = {"Description": each.text, **({"Units": each.units} if each.units else {})}
                if each.ending != ".html":
                    about["SpatialReference"] = self._uris["moving" if each.on_moving else "fixed"]
                name = self.names.transform(each.suffix, each.ending, each.on_moving)
                yield self._file(name, copied(self.folder / each.output), about, ("moving", "fixed"))

    def _file(
        self, path: PurePosixPath, make: Callable[[Path], None], about: Mapping[str, Any], sources: tuple[str, ...]
    ) -> DerivedFile:
        """A file with what all sidecars have; sources are roles or URIs."""
        uris = [uri for source in sources for uri in self._inputs.get(source, [source])]
        return DerivedFile(path, make, {**about, "Sources": uris, DIGEST: self._digest})
