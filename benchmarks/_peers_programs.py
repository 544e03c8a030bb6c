# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Adapters to programs and to the method's original tool."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING
from unittest.mock import patch

from _peer import Peer, Task, call, flip, program, read_vectors

if TYPE_CHECKING:
    import numpy as np


class NiftyReg(Peer):
    """``reg_aladin``, then ``reg_f3d``, with defaults.

    Args:
        task: what to register.
        measure: options of ``reg_f3d`` that choose another measure than NMI.
    """

    programs = True

    def __init__(self, task: Task, measure: Sequence[str]) -> None:
        super().__init__(task)
        self.measure = measure
        self.aladin, self.f3d, self.transform = (program(f"reg_{name}") for name in ("aladin", "f3d", "transform"))
        self.version = f"NiftyReg {call(self.f3d, '--version').strip()}"

    def register(self) -> None:
        """Affine, then B-splines; the grid of control points holds both."""
        images = ("-ref", self.fixed, "-flo", self.moving)
        common = ("-aff", self.file("affine.txt"), "-res", self.file("warped.nii"), "-omp", self.task.threads, "-voff")
        call(self.aladin, *images, *common)
        call(self.f3d, *images, *common, "-cpp", self.file("grid.nii"), *self.measure)

    def convert(self) -> None:
        """No inverse without a velocity field."""
        call(self.transform, "-ref", self.fixed, "-disp", self.file("grid.nii"), self.file("field.nii"))
        self.write_forward(flip(read_vectors(self.file("field.nii"))))


class Original(Peer):
    """``python -m locor`` without options, in this process, so that its imports are not measured."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        import locor.registration  # noqa: F401  # what the tool imports does not count
        import torch  # not before, as it takes long, which would be in vain where the tool is missing

        torch.manual_seed(task.seed)
        self.version = "locor"

    def register(self) -> None:
        """Its command line; it writes both fields itself."""
        fields = ("-d", self.file("forward.nii.gz"), "--displacement-field-moving", self.file("inverse.nii.gz"))
        with patch.object(sys, "argv", ["locor", self.fixed, self.moving, *fields, "--device", "cpu"]):
            runpy.run_module("locor", run_name="__main__", alter_sys=True)

    def convert(self) -> None:
        """Its fields are in voxels of the grid that they lie on."""
        self.write_forward(self._millimeters(self.file("forward.nii.gz"), self.fixed))
        self.write_inverse(self._millimeters(self.file("inverse.nii.gz"), self.moving))

    @staticmethod
    def _millimeters(field: str, image: str) -> np.ndarray:
        import nibabel as nib

        return flip(read_vectors(field) @ nib.load(image).affine[:3, :3].T)
