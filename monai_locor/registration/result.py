# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of a registration: transform, images and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, overload

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import FieldStep, Grid, SpatialTransform, Step, or_identity, to_voxels, warped
from ..geometry.mapping import displacement_of_affine
from ..io import ImageSource
from ..io.libraries import image_for_itk, image_for_simpleitk
from ..io.transforms.library_objects import itk_of_steps, simpleitk_of_steps
from ..quality import ErrorMap, Verdict
from .basis_pair import BasisPair
from .config import RegistrationConfig
from .exports import FIELDS, IMAGES, TRANSFORMS, check_part, importing, nibabel_image, write_files
from .fields import StationaryVelocity
from .manifest import MANIFEST_FORMAT, described_grid, versions
from .stored import stored_fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RegistrationResult"]


@dataclass(frozen=True)
class RegistrationResult:
    """The transform and the warped images of one pair.

    All displacements represent the complete transform, including the affine, in RAS mm: a fixed point x is mapped to
    ``x + forward_mm(x)`` in the moving image, a moving point y to ``y + inverse_mm(y)`` in the fixed image.

    Attributes:
        affine: the affine part alone, ``(D + 1, D + 1)``, fixed to moving world points.
        forward_mm: forward displacement, ``(D, *fixed)`` float32.
        inverse_mm: inverse displacement, ``(D, *moving)`` float32.
        warped_moving: the moving image on the fixed grid, ``(1, *fixed)``; set to its minimum outside its field of view.
            None if the result was loaded and neither this image nor the moving image was found.
        warped_fixed: the fixed image on the moving grid, ``(1, *moving)``, likewise.
        fixed_grid, moving_grid: grids of the images as given.
        history: one entry per stage: its settings, ``loss`` and ``bending`` of every iteration, ``seconds``.
        jacobian: see :func:`monai_locor.metrics.jacobian_statistics`, over the fixed mask if there is one; if the initial
            affine includes a reflection, of the map without it.
        config: the settings.
        intersubject: whether the inter-subject settings were applied, see ``intersubject`` of the settings.
        warnings: all warnings of the run, including those from reading the images.
        doubts: the warnings that limit the verdict to WARN.
        unexplained: median over the local fits of the unexplained share of the target image's variance, after the coarse
            stages: the criterion for ``intersubject``; None if it was not measured.
        seed: random seed of the run.
        seconds: wall time.
        inputs: names of the input files, if any.
        device: device of the run.
        basis: the learned basis functions; None if the settings use another basis.
        velocity: velocity of the deformation on its lattice, see :attr:`velocity_mm`; None if there is none.
        verdict: assessment of the registration, see :func:`monai_locor.report.judge`.
        initial: initial affine, ``(D + 1, D + 1)``, fixed to moving world points; None for the identity.
        fixed_image, moving_image: images as read, for figures; None if not available.
        arguments: arguments of the registration as plain values, see :mod:`monai_locor.registration.manifest`.
        timings: wall times of the parts of the run, seconds.
        interrupted: whether the optimization was interrupted; the transform is the state at the interrupt.
        missing_fixed, missing_moving: probability that the other image does not show the tissue of a voxel, ``(1, *grid)`` on
            the fixed and the moving grid; None with the setting ``missing`` ``"never"``.
        missing_ml: volume of the places found in each image, ml, ``{"fixed": ..., "moving": ...}``, or None.
        landmarks_mm: ``count`` and distances of the landmarks ``before`` (initial affine) and ``after``, mm; None without any.
        label_dice: ``labels`` that drove the registration, and their Dice ``before`` and ``after``; None without any.
        surface_mm: ``names`` of the pairs of surfaces, mean distances ``before`` and ``after``, mm; None without any.
        memory: bytes beyond those before the run: ``predicted``, ``available`` and ``peak``, each None if unknown; or None.
        error_mm: estimated error of every fixed voxel with its interval; None in files of earlier versions.
        registered: False for a transform from elsewhere (:func:`monai_locor.check`): only ``transform`` of ``config`` is known.
    """

    affine: np.ndarray
    forward_mm: torch.Tensor
    inverse_mm: torch.Tensor
    warped_moving: MetaTensor | None
    warped_fixed: MetaTensor | None
    fixed_grid: Grid
    moving_grid: Grid
    history: list[dict[str, Any]]
    jacobian: dict[str, Any]
    config: RegistrationConfig
    seed: int
    seconds: float
    device: str = "cpu"
    inputs: dict[str, str] = field(default_factory=dict)
    basis: BasisPair | None = None
    verdict: Verdict | None = None
    initial: np.ndarray | None = None
    fixed_image: MetaTensor | None = None
    moving_image: MetaTensor | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    intersubject: bool = False
    unexplained: float | None = None
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    velocity: StationaryVelocity | None = None
    registered: bool = True
    missing_fixed: torch.Tensor | None = None
    missing_moving: torch.Tensor | None = None
    missing_ml: dict[str, float] | None = None
    landmarks_mm: dict[str, Any] | None = None
    label_dice: dict[str, Any] | None = None
    surface_mm: dict[str, Any] | None = None
    memory: dict[str, int | None] | None = None
    error_mm: ErrorMap | None = None

    @property
    def last_config(self) -> RegistrationConfig:
        """The settings of the last stages, without the bending weight of blurred images."""
        return self.config.for_intersubject if self.intersubject else self.config

    @property
    def remarks(self) -> list[str]:
        """Short descriptions of exceptional events of the run."""
        known = {"interrupted": self.interrupted, "inter-subject settings": self.intersubject}
        return [text for text, is_so in known.items() if is_so]

    @cached_property
    def transform(self) -> SpatialTransform:
        """The map from fixed to moving points, RAS mm, with its inverse.

        It consists of a displacement field on the fixed grid followed by :attr:`affine`, which also applies beyond the grid;
        without a deformation, of the affine alone. The inverse is a single field on the moving grid.
        """
        if self.config.transform != "deformable":
            return SpatialTransform.of_affine(self.affine)
        whole = SpatialTransform.of_field(self.forward_mm, self.fixed_grid).split(self.fixed_grid, self.affine)
        return SpatialTransform(whole.steps, (FieldStep(self.inverse_mm, self.moving_grid),))

    @overload
    def transform_points(self, points: np.ndarray | Sequence[Any], inverse: bool = False) -> np.ndarray: ...
    @overload
    def transform_points(self, points: torch.Tensor, inverse: bool = False) -> torch.Tensor: ...
    def transform_points(
        self, points: torch.Tensor | np.ndarray | Sequence[Any], inverse: bool = False
    ) -> torch.Tensor | np.ndarray:
        """Map points of the fixed image to the moving image.

        Args:
            points: ``(N, D)`` or ``(D,)``, RAS mm; tensor, array or list. For a slice not in the x-y plane, use the
                coordinates of its grid.
            inverse: map points of the moving image to the fixed image.

        Returns:
            the mapped points in the same shape, float64, RAS mm; a tensor for a tensor, else an array.

        Raises:
            ValueError: for another shape.
        """
        transform = self.transform.inverse() if inverse else self.transform
        given = points if isinstance(points, torch.Tensor) else torch.from_numpy(np.array(points, dtype=np.float64))
        moved = transform.points(given[None])[0] if given.ndim == 1 else transform.points(given)
        return moved if isinstance(points, torch.Tensor) else moved.numpy()

    def to_sitk(self, what: str = "transform") -> Any:
        """Convert the transform or an image to a SimpleITK object.

        Args:
            what: ``"transform"``, a ``SimpleITK.Transform`` from fixed to moving points (LPS mm, double precision), as used
                by ``SimpleITK.Resample(moving, fixed, transform)``: a composite of a displacement field and the affine map,
                or the affine map alone; ``"inverse"``, from moving to fixed points, a displacement field on the moving grid;
                ``"warped_moving"`` or ``"warped_fixed"``, a ``SimpleITK.Image``.

        Raises:
            InputError: for another name, or if the result does not hold the image or SimpleITK is not installed.
        """
        check_part(what, (*TRANSFORMS, *IMAGES))
        with importing("SimpleITK", "SimpleITK"):
            return image_for_simpleitk(*self._image(what)) if what in IMAGES else simpleitk_of_steps(self._steps(what))

    def to_itk(self, what: str = "transform") -> Any:
        """Like :meth:`to_sitk`, but return an object of the Python package itk."""
        check_part(what, (*TRANSFORMS, *IMAGES))
        with importing("ITK", "itk"):
            return image_for_itk(*self._image(what)) if what in IMAGES else itk_of_steps(self._steps(what))

    def to_nibabel(self, what: str = "warped_moving") -> nib.Nifti1Image:
        """Convert an image or a displacement field to a ``nibabel.Nifti1Image``.

        Args:
            what: ``"warped_moving"``, the moving image on the fixed grid, or ``"warped_fixed"``; ``"forward_field"`` or
                ``"inverse_field"``, the complete transform as read by ITK, ANTs and Slicer (intent vector, LPS mm).

        Raises:
            InputError: for another name, or if the result does not hold the image.
        """
        check_part(what, (*IMAGES, *FIELDS))
        if what in IMAGES:
            return nibabel_image(*self._image(what))
        if what == "forward_field":
            return nibabel_image(self.forward_mm, self.fixed_grid, vectors=True)
        return nibabel_image(self.inverse_mm, self.moving_grid, vectors=True)

    def _image(self, name: str) -> tuple[torch.Tensor, Grid]:
        return self.held(name), self.fixed_grid if name == "warped_moving" else self.moving_grid

    def _steps(self, name: str) -> Sequence[Step]:
        return (self.transform if name == "transform" else self.transform.inverse()).steps

    @property
    def forward_ddf(self) -> torch.Tensor:
        """Return the forward displacement along the fixed grid's array axes in voxels, ``(D, *fixed)``.

        It is suitable for MONAI's ``Warp`` if the moving image is on the fixed grid.
        """
        return to_voxels(self.forward_mm, self.fixed_grid)

    @property
    def inverse_ddf(self) -> torch.Tensor:
        """Return the inverse displacement along the moving grid's array axes in voxels, ``(D, *moving)``."""
        return to_voxels(self.inverse_mm, self.moving_grid)

    def warp_moving(self, image: torch.Tensor, mode: str = "bilinear") -> MetaTensor:
        """Warp another image or label map on the moving grid, ``(C, *moving)``, to the fixed grid.

        Args:
            mode: ``"bilinear"``, ``"bspline"`` or ``"lanczos"``; for labels ``"nearest"`` or ``"smooth"``.
        """
        return warped(image, self.moving_grid, self.forward_mm, self.fixed_grid, mode)

    def warp_fixed(self, image: torch.Tensor, mode: str = "bilinear") -> MetaTensor:
        """Warp an image on the fixed grid, ``(C, *fixed)``, to the moving grid."""
        return warped(image, self.fixed_grid, self.inverse_mm, self.moving_grid, mode)

    def held(self, name: str) -> MetaTensor:
        """Return ``"warped_moving"``, ``"warped_fixed"``, ``"fixed_image"`` or ``"moving_image"``.

        Raises:
            InputError: if the result does not hold it.
        """
        image: MetaTensor | None = getattr(self, name)
        if image is None:
            role = "moving" if "moving" in name else "fixed"
            raise InputError(f"the result does not hold the {role} image: load it with {role}=..., or take it from register.")
        return image

    def moving_before(self) -> MetaTensor:
        """Resample the moving image to the fixed grid with the initial affine, ``(1, *fixed)``.

        Raises:
            InputError: if the result does not hold it.
        """
        return warped(self.held("moving_image"), self.moving_grid, self.initial_mm, self.fixed_grid)

    @property
    def velocity_mm(self) -> torch.Tensor:
        """Return the stationary velocity v on the fixed grid, ``(D, *fixed)`` float32, RAS mm.

        With :attr:`affine` A, ``x + forward_mm(x) = A exp(v)(x)`` and ``y + inverse_mm(y) = exp(-v)(A^-1 y)``, up to
        errors of integration and interpolation.

        Raises:
            InputError: if there is none: without a deformation, with ``composition`` "stages", and for loaded results.
        """
        if self.velocity is None:
            raise InputError(
                f"the result has no velocity field (transform {self.config.transform!r}, composition "
                f'{self.config.composition!r}); register with "deformable" and "single"; results from files have none.'
            )
        return self.velocity.on(self.fixed_grid)

    @property
    def initial_mm(self) -> torch.Tensor:
        """Return the displacement of :attr:`initial`, ``(D, *fixed)``, RAS mm."""
        return displacement_of_affine(or_identity(self.initial, self.fixed_grid.dims), self.fixed_grid)

    def plot(self, title: str | None = None) -> Figure:
        """Plot the fixed, moving and warped image, checkerboards and the deformed grid in three planes.

        Args:
            title: figure title; by default the verdict.

        Raises:
            ImportError: if matplotlib is not installed; the message names the extra that provides it.
            InputError: if the result does not hold its images.
        """
        return self._display().result_figure(self, title)

    def _repr_html_(self) -> str:
        return self._display().result_html(self)

    def view(self, height: int = 400) -> Any:
        """Return a notebook viewer (ipyniivue) with the warped image over the fixed image, 3-D only.

        Args:
            height: height of the widget, pixels.

        Raises:
            ImportError: if ipyniivue is not installed; the message names the extra that provides it.
            InputError: if the result does not hold its images or is 2-D.
        """
        return self._display().result_viewer(self, height)

    @staticmethod
    def _display() -> ModuleType:
        """Import the module for figures and HTML; not at the top, because the report depends on this class."""
        from ..report import notebook

        return notebook

    def summary(self) -> dict[str, Any]:
        """Return everything except fields and images, as plain values for JSON."""
        return {
            "format": MANIFEST_FORMAT,
            "kind": "registration" if self.registered else "check",
            "inputs": self.inputs,
            "settings": self.config.to_dict() if self.registered else None,
            "seed": self.seed if self.registered else None,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "fixed_grid": described_grid(self.fixed_grid),
            "moving_grid": described_grid(self.moving_grid),
            "affine": self.affine.tolist(),
            "initial": None if self.initial is None else self.initial.tolist(),
            "jacobian": self.jacobian,
            "stages": self.history,
            "versions": versions(),
            **{name: getattr(self, name) for name in ("timings", "arguments", "interrupted", "intersubject", "unexplained")},
            "error_mm": None if self.error_mm is None else self.error_mm.summary(),
            **{name: getattr(self, name) for name in ("missing_ml", "landmarks_mm", "label_dice", "surface_mm", "memory")},
            "warnings": list(self.warnings),
            "doubts": list(self.doubts),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
        }

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        fixed: ImageSource | None = None,
        moving: ImageSource | None = None,
        need_images: bool = False,
    ) -> RegistrationResult:
        """Read a result written by ``monai-locor register`` or :meth:`save`, from any of its outputs.

        The transform is read from both fields, ``transform.h5``, or the ANTs files; a missing inverse is computed. The images
        are read from their original files and warped if these have not changed; otherwise the warped images are read from
        the folder. Missing images are None, with a warning.

        Args:
            folder: output folder with ``run.json``.
            fixed, moving: the images, if their files were moved or were in memory. Other contents are told in a warning.
            need_images: raise InputError if an image cannot be read.

        Raises:
            InputError: if there is no ``run.json`` or no transform, or if an image does not lie where the registered one did.
        """
        return cls(**stored_fields(folder, fixed, moving, need_images))

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write the result in formats of ITK tools; each file is written atomically.

        The files are ``warped.nii.gz`` (moving image on the fixed grid), ``forward_field.nii.gz`` (on the fixed grid) and
        ``inverse_field.nii.gz`` (on the moving grid), NIfTI vector fields in LPS mm including the affine, ``affine.tfm``
        (the affine part alone), ``run.json`` (:meth:`summary`), ``error.nii.gz`` (:attr:`error_mm`: expected error, lower and
        upper bound, mm) and, if missing tissue was looked for, ``missing_fixed.nii.gz`` and ``missing_moving.nii.gz``.
        All outputs of an earlier result in the folder are removed before; call :meth:`save_basis` and write reports after.

        Raises:
            InputError: if the folder is not writable.
        """
        return write_files(self, folder)

    def save_basis(self, path: str | PathLike[str], contrasts: tuple[str, str] | None = None) -> list[Path]:
        """Write the learned basis functions, for other pairs of the same contrasts (``register(initial_basis=path)``).

        Args:
            path: path of the ``.safetensors`` file; a ``.json`` file of the same name describes it.
            contrasts: names of the moving and the fixed contrast for the description, for instance ``("T1", "FLAIR")``.

        Raises:
            InputError: if the settings use another basis, or if the files cannot be written.
            ImportError: if safetensors is not installed; the message names the extra that provides it.
        """
        if self.basis is None:
            raise InputError(
                f"the result has no learned basis to save (similarity {self.config.similarity!r}, basis {self.config.basis!r}"
                f"{', interrupted' if self.interrupted else ''}); register with similarity 'locor' and basis 'learned'."
            )
        basis = self.basis if contrasts is None else replace(self.basis, contrasts=contrasts)
        return basis.save(path)
