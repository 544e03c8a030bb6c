# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Adapters to Python packages, which run in this process: reading, affine and deformable registration."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from _peer import Peer, Task, call, flip, program, read_vectors

GRID_MM = 10.0  # distance of the control points of SimpleITK's finest B-spline grid


class Ants(Peer):
    """ANTs: affine and SyN, both by Mattes' mutual information, or as ``antsRegistrationSyNQuick.sh``."""

    FULL = {"type_of_transform": "SyN", "syn_metric": "mattes", "syn_sampling": 32, "reg_iterations": (100, 70, 50, 20)}
    QUICK = {"type_of_transform": "antsRegistrationSyNQuick[s]"}

    def __init__(self, task: Task, quick: bool = False) -> None:
        super().__init__(task)
        import ants

        self.ants = ants
        if not hasattr(ants, "config"):
            raise ImportError(f"antspyx {version('antspyx')} cannot be seeded; 0.6 can")
        self.ants.config._random_seed = task.seed + 1  # its setter also sets the number of threads
        self.settings = self.QUICK if quick else self.FULL
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
    """Elastix: its default affine and B-spline parameter maps, from the images' centers."""

    CHANGES = {"AutomaticTransformInitialization": "true", "WriteResultImage": "false"}

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from importlib.metadata import PackageNotFoundError

        try:
            self.version = f"itk-elastix {version('itk-elastix')}"
        except PackageNotFoundError as error:
            raise ModuleNotFoundError("No module named 'itk.elastix'") from error
        import itk

        self.itk = itk
        self.kind = itk.Image[itk.F, 3]
        itk.ElastixRegistrationMethod[self.kind, self.kind]  # loads the library

    def maps(self) -> Any:
        """Parameter maps of both stages."""
        parameters = self.itk.ParameterObject.New()
        for name in ("affine", "bspline"):
            stage = parameters.GetDefaultParameterMap(name)
            for key, value in {**self.CHANGES, "RandomSeed": str(self.task.seed + 1)}.items():
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
        field = self.itk.transformix_deformation_field(moving, self.found)
        self.write_forward(self.itk.array_from_image(field).transpose(2, 1, 0, 3))


class SimpleItk(Peer):
    """SimpleITK: affine, then a B-spline grid that is refined twice, both by Mattes' mutual information."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        import SimpleITK as sitk

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
        self.sitk = sitk
        self.version = f"SimpleITK {version('SimpleITK')}"

    def register(self) -> None:
        """Both transforms, the B-splines in the space of the fixed image."""
        fixed, moving = (self.sitk.ReadImage(name, self.sitk.sitkFloat32) for name in (self.fixed, self.moving))
        affine = sitk_affine(self.sitk, fixed, moving, self.task.seed)
        self.found = self.sitk.CompositeTransform([affine, self._spline(fixed, moving, affine)])

    def _spline(self, fixed: Any, moving: Any, affine: Any) -> Any:
        method = sitk_method(self.sitk, self.task.seed)
        coarse = [max(1, round(size * step / GRID_MM / 4)) for size, step in zip(fixed.GetSize(), fixed.GetSpacing())]
        spline = self.sitk.BSplineTransformInitializer(fixed, coarse, order=3)
        method.SetMovingInitialTransform(affine)
        method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2, 4])
        method.SetMetricSamplingPercentage(0.05, self.task.seed + 1)
        # The gradient is small beside the parameters: at an accuracy of 1e-2 nothing would move.
        method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-6, numberOfIterations=30, deltaConvergenceTolerance=1e-3)
        return method.Execute(fixed, moving)

    def convert(self) -> None:
        """Write the forward field; there is no inverse."""
        like = self.sitk.ReadImage(self.fixed)
        geometry = like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
        field = self.sitk.TransformToDisplacementField(self.found, self.sitk.sitkVectorFloat64, *geometry)
        self.write_forward(self.sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3))


def sitk_method(sitk: Any, seed: int) -> Any:
    """Common settings of SimpleITK's two stages."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed + 1)  # a seed of 0 would be the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def sitk_affine(sitk: Any, fixed: Any, moving: Any, seed: int) -> Any:
    """Affine transform from fixed to moving points, from the images' centers of mass."""
    centered = sitk.CenteredTransformInitializerFilter.MOMENTS
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), centered)
    method = sitk_method(sitk, seed)
    method.SetInitialTransform(start, inPlace=False)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=1e-4, numberOfIterations=300)
    method.SetOptimizerScalesFromPhysicalShift()
    found = method.Execute(fixed, moving)
    return sitk.AffineTransform(found.GetNthTransform(0) if found.GetName() == "CompositeTransform" else found)


class ConvexAdam(Peer):
    """ConvexAdam with its defaults (MIND-SSC), after SimpleITK's affine; it works on one voxel grid."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        import SimpleITK as sitk
        import torch
        from convexAdam.convex_adam_MIND import convex_adam_pt

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
        self.sitk, self.device, self.function = sitk, torch.device("cpu"), convex_adam_pt
        self.version = f"convexAdam {version('convexAdam')}"

    def register(self) -> None:
        """Affine, the moving image on the fixed grid, displacements in voxels of it, ``(X, Y, Z, 3)``."""
        fixed, moving = (self.sitk.ReadImage(name, self.sitk.sitkFloat32) for name in (self.fixed, self.moving))
        self.affine = sitk_affine(self.sitk, fixed, moving, self.task.seed)
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
    """Greedy: affine, then deformable, both by NMI; as a Python package or as a program."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
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
        words = f"-d 3 -threads {self.task.threads} {words}"
        if self.package:
            with open(os.devnull, "w", encoding="utf-8") as nothing:
                self.package.Greedy3D().execute(words, out=nothing, err=nothing)
        else:
            call("greedy", *words.split())

    def register(self) -> None:
        """Affine from the images' centers, then deformable with the inverse, saved without rounding."""
        pair = f"-m NMI -i fixed.nii.gz moving.nii.gz -seed {self.task.seed + 1}"
        self.run(f"-a {pair} -n 100x50x10 -ia-image-centers -o affine.mat")
        self.run(f"{pair} -n 100x100x50 -s 2vox 1vox -it affine.mat -o warp.nii.gz -oinv back.nii.gz -wp 0")

    def convert(self) -> None:
        """Greedy composes affine and field itself."""
        self.run("-rf fixed.nii.gz -rc forward.nii.gz -wp 0 -r warp.nii.gz affine.mat")
        self.run("-rf moving.nii.gz -rc inverse.nii.gz -wp 0 -r affine.mat,-1 back.nii.gz")
        self.write_forward(read_vectors(self.file("forward.nii.gz")))
        self.write_inverse(read_vectors(self.file("inverse.nii.gz")))
