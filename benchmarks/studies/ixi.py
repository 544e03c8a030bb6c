# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""IXI PD and T2 images of the same session, one of them deformed: a registration with a known answer.

The images are published at https://brain-development.org/ixi-dataset (CC BY-SA 3.0): the archives ``IXI-PD.tar`` and
``IXI-T2.tar``. The deformation is :func:`.t2_pd_deformation`. The paper drew its deformations on a GPU with one seed, 42,
for all subjects in sequence; they cannot be reproduced, so results agree with the paper's in distribution only. Here the seed
of a subject is 42 and the subject's number, independent of other subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_locor.data.study_case import StudyCase
from monai_locor.io import read_image

from .deformation import t2_pd_pair
from .study import Study

__all__ = ["IXI"]

STUDY_SEED = 42

# from the paper, each once (IXI508 is listed twice there)
TEST_SUBJECTS = """
IXI077-Guys-0752 IXI519-HH-2240 IXI237-Guys-1049 IXI607-Guys-1097 IXI347-IOP-0927 IXI029-Guys-0829 IXI508-HH-2268
IXI392-Guys-1064 IXI056-HH-1327 IXI227-Guys-0813 IXI517-IOP-1144 IXI238-IOP-0883 IXI551-Guys-1065 IXI467-Guys-0983
IXI225-Guys-0832 IXI549-Guys-1046 IXI021-Guys-0703 IXI257-HH-1724 IXI224-Guys-0823 IXI637-HH-2785 IXI216-HH-1635
IXI265-Guys-0845 IXI418-Guys-0956 IXI184-Guys-0794 IXI219-Guys-0894 IXI411-Guys-0959 IXI148-HH-1453 IXI621-Guys-1100
IXI475-IOP-1139 IXI468-Guys-0985 IXI554-Guys-1068 IXI469-IOP-1136 IXI638-HH-2786 IXI330-Guys-0881 IXI200-Guys-0812
IXI208-Guys-0808 IXI630-Guys-1108 IXI633-HH-2689 IXI334-HH-1907 IXI495-Guys-1009 IXI524-HH-2412 IXI480-Guys-1033
IXI325-Guys-0911 IXI202-HH-1526 IXI359-Guys-0918 IXI320-Guys-0902 IXI369-Guys-0924 IXI177-Guys-0831 IXI084-Guys-0741
"""


class IXI(Study):
    """PD (fixed, deformed) and T2 (moving).

    Splits: ``"validation"``, three subjects; ``"test"``, 49 subjects.

    Args:
        folder: with ``IXI161-HH-2533-PD.nii.gz`` and ``IXI161-HH-2533-T2.nii.gz`` and so on, or with the folders ``IXI-PD``
            and ``IXI-T2`` (or ``PD`` and ``T2``) of them.

    Raises:
        InputError: if the folder does not exist.
    """

    name = "ixi"
    source = "the images are IXI-PD.tar and IXI-T2.tar of https://brain-development.org/ixi-dataset"
    splits = {"validation": ("IXI161-HH-2533", "IXI121-Guys-0772", "IXI127-HH-1451"), "test": tuple(TEST_SUBJECTS.split())}
    measures = ("error_capped_vox", "error_vox", "error_mm", "ndv_percent", "det_std")

    def files(self, name: str) -> dict[str, Path]:
        """PD and T2 of a subject."""
        return {
            part: self._first([f"{home}{name}-{part}.nii.gz" for home in ("", f"IXI-{part}/", f"{part}/")])
            for part in ("PD", "T2")
        }

    def _load(self, name: str, files: Mapping[str, Path]) -> StudyCase:
        pd, t2 = (read_image(files[part], role)[0] for part, role in (("PD", "fixed"), ("T2", "moving")))
        return t2_pd_pair(pd, t2, (STUDY_SEED, int(name[3:6])), name=name)
