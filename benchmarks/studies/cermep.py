# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""CERMEP-IDB-MRXFDG: T1-weighted MR and CT of the heads of 37 adults, scored against a pseudo-CT of the MR.

The images are available on request from Merida et al., EJNMMI Research 2021 (doi 10.1186/s13550-021-00830-6). The paper scores
against a *pseudo-CT*, synthesised from the T1 by the network of Honkamaa et al., Medical Image Analysis 2023
(doi 10.1016/j.media.2023.102940, https://github.com/honkamj/non-aligned-i2i), trained on all 37 subjects. It is not part of
the data set and must be made with that program first.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from monai.data.meta_tensor import MetaTensor

from monai_locor.data.study_case import StudyCase
from monai_locor.errors import InputError
from monai_locor.io import read_image

from .masks import body_mask
from .study import Study

__all__ = ["CERMEP"]

ARCHIVE_FOLDER = "home/pool/DM/TEP/CERMEP_MXFDG/BASE/DATABASE_SENT/ALL"  # in the unpacked archive
VALIDATION = ("sub-0004", "sub-0005", "sub-0008")
SUBJECTS = tuple(f"sub-{number:04d}" for number in range(1, 38))
THRESHOLD, DILATION = 0.1, 2  # of the evaluation mask, see `body_mask`


class CERMEP(Study):
    """Head T1 (fixed) and CT (moving), without masks for the registration.

    Splits: ``"validation"`` sub-0004, sub-0005, sub-0008; ``"test"`` the other 34.

    Args:
        folder: the unpacked archive, or the folder of ``sub-0001`` and so on in it:
            ``sub-0001/anat/sub-0001_T1w.nii.gz``, ``sub-0001/ct/sub-0001_ct.nii.gz``.
        pseudo_ct: folder with ``sub-0001/sub-0001_predicted.nii.gz`` (or ``sub-0001_predicted.nii.gz``), on the voxels of
            the T1; by default ``folder``. It is needed for scoring.

    Raises:
        InputError: if a folder does not exist.
    """

    name = "cermep"
    source = (
        "the images are to be requested from the authors (doi 10.1186/s13550-021-00830-6), the pseudo-CTs to be made with "
        "https://github.com/honkamj/non-aligned-i2i"
    )
    splits = {"validation": VALIDATION, "test": tuple(name for name in SUBJECTS if name not in VALIDATION)}
    measures = ("mae_capped_hu", "mae_hu", "ndv_percent", "det_std")

    def __init__(self, folder: str | PathLike[str], pseudo_ct: str | PathLike[str] | None = None) -> None:
        super().__init__(folder)
        self.pseudo_ct = self.folder if pseudo_ct is None else Path(pseudo_ct).expanduser()
        if not self.pseudo_ct.is_dir():
            raise InputError(f"{self.name} pseudo-CTs {self.pseudo_ct}: no such folder; {self.source}")

    def files(self, name: str) -> dict[str, Path]:
        """T1, CT and pseudo-CT of a case."""
        target = [self.pseudo_ct / part / f"{name}_predicted.nii.gz" for part in (name, "")]
        return {
            "fixed": self._first([f"{home}{name}/anat/{name}_T1w.nii.gz" for home in ("", f"{ARCHIVE_FOLDER}/")]),
            "moving": self._first([f"{home}{name}/ct/{name}_ct.nii.gz" for home in ("", f"{ARCHIVE_FOLDER}/")]),
            "target": next((path for path in target if path.is_file()), target[0]),
        }

    def _load(self, name: str, files: Mapping[str, Path]) -> StudyCase:
        fixed, moving = read_image(files["fixed"], "fixed")[0], read_image(files["moving"], "moving")[0]
        target = read_image(files["target"], "fixed")[0]
        if target.shape != fixed.shape:
            shapes = f"{tuple(target.shape[1:])} voxels, the T1 {tuple(fixed.shape[1:])}"
            raise InputError(f"pseudo-CT {files['target']}: has {shapes}; it must be made from that T1 without cropping")
        return StudyCase(
            study=self.name,
            name=name,
            fixed=fixed,
            moving=moving,
            evaluation_mask=body_mask(fixed, THRESHOLD, DILATION),
            target=MetaTensor(target.as_tensor(), affine=fixed.affine.clone()),  # its own header is that of the network
        )
