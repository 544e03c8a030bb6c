# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Adapters to Python packages, which run in this process: reading, affine and deformable registration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from _peer import Peer, Task, call, flip, program, read_vectors


class Ants(Peer):
    """ANTs: affine and SyN, both by Mattes' mutual information, or as ``antsRegistrationSyNQuick.sh``.

    Args:
        task: what to register.
        settings: arguments of ``ants.registration``.
    """

    def __init__(self, task: Task, **settings: Any) -> None:
        super().__init__(task)
        import ants

        self.ants = ants
        if not hasattr(ants, "config"):
            raise ImportError(f"antspyx {version('antspyx')} cannot be seeded; 0.6 can")
        self.ants.config._random_seed = task.seed + 1  # its setter also sets the number of threads
        self.settings = settings
        self.version = f"antspyx {version('antspyx')}"

    def register(self) -> None:
        """The transforms are files."""
        self.images = self.ants.image_read(self.fixed), self.ants.image_read(self.moving)
        self.found = self.ants.registration(*self.images, outprefix=self.file(""), **self.settings)

    def convert(self) -> None:
        """ANTs composes affine and fields itself."""
        fixed, moving = self.images
        compose = self.ants.apply_transforms
        self.write_forward(read_vectors(compose(fixed, moving, self.found["fwdtransforms"], compose=self.file("forward"))))
        back = compose(moving, fixed, self.found["invtransforms"], whichtoinvert=(True, False), compose=self.file("inverse"))
        self.write_inverse(read_vectors(back))


class Elastix(Peer):
    """Elastix: default parameter maps, one after the other.

    Args:
        task: what to register.
        maps: their names.
        changes: of entries of every map.
    """

    def __init__(self, task: Task, maps: Sequence[str], changes: Mapping[str, str]) -> None:
        super().__init__(task)
        from importlib.metadata import PackageNotFoundError

        try:
            self.version = f"itk-elastix {version('itk-elastix')}"
        except PackageNotFoundError as error:
            raise ModuleNotFoundError("No module named 'itk.elastix'") from error
        import itk

        self.itk = itk
        self.names, self.changes = maps, changes
        self.kind = itk.Image[itk.F, task.dims]
        itk.ElastixRegistrationMethod[self.kind, self.kind]  # loads the library

    def maps(self) -> Any:
        """Parameter maps of the stages."""
        parameters = self.itk.ParameterObject.New()
        for name in self.names:
            stage = parameters.GetDefaultParameterMap(name)
            for key, value in {**self.changes, "RandomSeed": str(self.task.seed + 1)}.items():
                stage[key] = [value]
            parameters.AddParameterMap(stage)
        return parameters

    def register(self) -> None:
        """Affine, then B-splines on top of it."""
        images = (self.itk.imread(name, self.itk.F) for name in (self.fixed, self.moving))
        method = self.itk.ElastixRegistrationMethod[self.kind, self.kind].New(*images)
        method.SetParameterObject(self.maps())
        method.SetNumberOfThreads(self.task.threads)
        method.LogToConsoleOff()
        method.UpdateLargestPossibleRegion()
        self.found = method.GetTransformParameterObject()

    def convert(self) -> None:
        """Write the forward field; there is no inverse."""
        moving = self.itk.imread(self.moving, self.itk.F)
        folder = str(self.task.work)  # it also writes the field to a file, by default into the working directory
        field = self.itk.transformix_deformation_field(moving, self.found, output_directory=folder)
        self.write_forward(_axes_reversed(self.itk.array_from_image(field)))


class SimpleItk(Peer):
    """SimpleITK: affine, then a B-spline grid that is refined twice, both by Mattes' mutual information.

    Args:
        task: what to register.
        affine: settings of `sitk_affine`.
        spline: of the B-splines: spacing of the finest control points, share of sampled voxels, and L-BFGS. The gradient is
            small beside the parameters: at an accuracy of 1e-2 nothing would move.
    """

    def __init__(self, task: Task, affine: Mapping[str, Any], spline: Mapping[str, Any]) -> None:
        super().__init__(task)
        import SimpleITK as sitk

        self.settings, self.of_spline = affine, spline

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
        self.sitk = sitk
        self.version = f"SimpleITK {version('SimpleITK')}"

    def register(self) -> None:
        """Both transforms, the B-splines in the space of the fixed image."""
        fixed, moving = (self.sitk.ReadImage(name, self.sitk.sitkFloat32) for name in (self.fixed, self.moving))
        affine = sitk_affine(self.sitk, fixed, moving, self.task.seed, self.settings)
        self.found = self.sitk.CompositeTransform([affine, self._spline(fixed, moving, affine)])

    def _spline(self, fixed: Any, moving: Any, affine: Any) -> Any:
        told = self.of_spline
        method = sitk_method(self.sitk, self.task.seed, self.settings)
        extents = [size * step for size, step in zip(fixed.GetSize(), fixed.GetSpacing())]
        coarse = [max(1, round(extent / told["spacing_mm"] / 4)) for extent in extents]
        spline = self.sitk.BSplineTransformInitializer(fixed, coarse, order=3)
        method.SetMovingInitialTransform(affine)
        method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2, 4])
        method.SetMetricSamplingPercentage(told["sampling"], self.task.seed + 1)
        method.SetOptimizerAsLBFGS2(**told["lbfgs"])
        return method.Execute(fixed, moving)

    def convert(self) -> None:
        """Write the forward field; there is no inverse."""
        like = self.sitk.ReadImage(self.fixed)
        geometry = like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
        field = self.sitk.TransformToDisplacementField(self.found, self.sitk.sitkVectorFloat64, *geometry)
        self.write_forward(_axes_reversed(self.sitk.GetArrayFromImage(field)))


def _axes_reversed(field: Any) -> Any:
    """Vectors ``(Z, Y, X, 3)`` as ``(X, Y, Z, 3)``, or ``(Y, X, 2)`` as ``(X, Y, 2)``."""
    return field.transpose(*reversed(range(field.ndim - 1)), field.ndim - 1)


def sitk_method(sitk: Any, seed: int, settings: Mapping[str, Any]) -> Any:
    """Common settings of SimpleITK's two stages."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=settings["bins"])
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(settings["sampling"], seed + 1)  # a seed of 0 would be the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(settings["shrink"])
    method.SetSmoothingSigmasPerLevel(settings["sigmas_voxels"])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def sitk_affine(sitk: Any, fixed: Any, moving: Any, seed: int, settings: Mapping[str, Any]) -> Any:
    """Affine transform from fixed to moving points, from the images' centers of mass."""
    centered = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(fixed.GetDimension()), centered)
    method = sitk_method(sitk, seed, settings)
    method.SetInitialTransform(start, inPlace=False)
    method.SetOptimizerAsRegularStepGradientDescent(**settings["descent"])
    method.SetOptimizerScalesFromPhysicalShift()
    found = method.Execute(fixed, moving)
    return sitk.AffineTransform(found.GetNthTransform(0) if found.GetName() == "CompositeTransform" else found)


class ConvexAdam(Peer):
    """ConvexAdam with its defaults (MIND-SSC), after SimpleITK's affine; it works on one voxel grid of three dimensions.

    Args:
        task: what to register.
        affine: settings of `sitk_affine`.
    """

    dims = (3,)

    def __init__(self, task: Task, affine: Mapping[str, Any]) -> None:
        super().__init__(task)
        import SimpleITK as sitk
        import torch
        from convexAdam.convex_adam_MIND import convex_adam_pt

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
        self.sitk, self.device, self.function, self.settings = sitk, torch.device("cpu"), convex_adam_pt, affine
        self.version = f"convexAdam {version('convexAdam')}"

    def register(self) -> None:
        """Affine, the moving image on the fixed grid, displacements in voxels of it, ``(X, Y, Z, 3)``."""
        fixed, moving = (self.sitk.ReadImage(name, self.sitk.sitkFloat32) for name in (self.fixed, self.moving))
        self.affine = sitk_affine(self.sitk, fixed, moving, self.task.seed, self.settings)
        moved = self.sitk.Resample(moving, fixed, self.affine)
        arrays = (self.sitk.GetArrayFromImage(image).T.copy() for image in (fixed, moved))
        self.found = self.function(*arrays, device=self.device)

    def convert(self) -> None:
        """Displaced fixed points go through the affine; there is no inverse."""
        import nibabel as nib
        import numpy as np

        world = nib.load(self.fixed).affine
        index = np.moveaxis(np.indices(self.found.shape[:3]), 0, -1)
        start, end = (flip(points @ world[:3, :3].T + world[:3, 3]) for points in (index, index + self.found))
        matrix = np.array(self.affine.GetMatrix()).reshape(3, 3)
        center, shift = (np.array(v) for v in (self.affine.GetCenter(), self.affine.GetTranslation()))
        self.write_forward((end - center) @ matrix.T + center + shift - start)


class Greedy(Peer):
    """Greedy: affine, then deformable; as a Python package or as a program.

    Args:
        task: what to register.
        affine, deformable: options of the two calls.
    """

    def __init__(self, task: Task, affine: str, deformable: str) -> None:
        super().__init__(task)
        self.affine, self.deformable = affine, deformable
        try:
            import picsl_greedy

            self.package, self.version = picsl_greedy, f"picsl-greedy {version('picsl-greedy')}"
        except ImportError:
            self.package, self.programs = None, True
            self.version = f"greedy {call(program('greedy'), '-version').strip()}"
        for role, image in (("fixed", task.fixed), ("moving", task.moving)):
            (task.work / f"{role}.nii.gz").symlink_to(image.resolve())
        os.chdir(task.work)  # its command line allows no blanks in names

    def run(self, words: str) -> None:
        """One call."""
        words = f"-d {self.task.dims} -threads {self.task.threads} {words}"
        if self.package:
            with open(os.devnull, "w", encoding="utf-8") as nothing:
                getattr(self.package, f"Greedy{self.task.dims}D")().execute(words, out=nothing, err=nothing)
        else:
            call("greedy", *words.split())

    def register(self) -> None:
        """Affine from the images' centers, then deformable with the inverse, saved without rounding."""
        pair = f"-i fixed.nii.gz moving.nii.gz -seed {self.task.seed + 1}"
        self.run(f"-a {pair} {self.affine} -o affine.mat")
        self.run(f"{pair} {self.deformable} -it affine.mat -o warp.nii.gz -oinv back.nii.gz -wp 0")

    def convert(self) -> None:
        """Greedy composes affine and field itself."""
        self.run("-rf fixed.nii.gz -rc forward.nii.gz -wp 0 -r warp.nii.gz affine.mat")
        self.run("-rf moving.nii.gz -rc inverse.nii.gz -wp 0 -r affine.mat,-1 back.nii.gz")
        self.write_forward(read_vectors(self.file("forward.nii.gz")))
        self.write_inverse(read_vectors(self.file("inverse.nii.gz")))
