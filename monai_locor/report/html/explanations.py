# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Explanations of the checks and numbers in the report."""

from __future__ import annotations

__all__ = ["CHECKS", "NUMBERS"]

CHECKS = {
    "voxels": "Only voxels inside both masks and both fields of view drive the registration. It needs at least a few hundred.",
    "overlap": "There is nothing to align where the images show different anatomy. 100 %: one lies inside the other.",
    "information gain": "Normalized mutual information measures how well one image predicts the other: 1 not at all, 2 "
    "perfectly. Registration should raise it, or keep it if the images were aligned at the start.",
    "alignment": "A small shift makes a good result worse. If it does not, the images do not match here.",
    "precision": "The less the images agree after a shift of a few millimeters, the more precisely they determine the "
    "alignment. Blurred images, such as PET, determine it less precisely, whatever the registration did.",
    "orientation": "Copies turned by 180 degrees or mirrored should match much worse. A symmetric head that was mirrored left "
    "to right matches nearly as well.",
    "turn": "Rotation of the result relative to its start. The headers of two scans of one subject rarely differ by more than "
    "some tens of degrees.",
    "other orientations": "The best alignment found with the moving image turned further. It should agree worse, by more than "
    "chance: the standard error is that of the difference between blocks of the image.",
    "mirror image": "The best alignment found with the moving image mirrored, which should agree worse. If it agrees better, "
    "an image was probably stored mirrored. If it agrees about as well, the images do not tell left from right, as in a "
    "symmetric head: trust the headers, or look for a marker.",
    "optimization": "A transform from elsewhere does not tell how it was computed.",
    "affine": "Largest factor by which the affine part stretches a length, and largest angle by which it shears. In two scans "
    "of one subject, the factor is near 1 and the angle near 0.",
    "one subject": "Between two scans of one head, the affine part hardly changes angles. Between two subjects it does, and "
    "where voxel sizes or the tilt of a gantry are wrong. Not checked for images of two subjects (intersubject=always).",
    "folding": "Folding maps several points to the same place, which tissue does not do. It should be 0.",
    "volume change": "The Jacobian determinant is the factor by which a small volume changes: 1 is unchanged, 0.5 halved, 2 "
    "doubled.",
    "inverse": "Distance between a point and its image after both transforms, there and back. It should be below a voxel.",
    "stages": "The optimization runs in stages from coarse to fine. A stage without overlap of the images changes nothing.",
    "convergence": "How much the loss still changed at the end. With a large share, the optimization had not converged.",
    "steps": "A step is undone if its loss or gradient is not finite or its loss is much higher than that of the first one.",
    "doubts": "Each check alone may be in doubt in a good result. No right result of the benchmark had six or more in doubt.",
    "warning": "Found while reading or registering the images.",
    "finished": "An interrupted run returns its best result so far.",
}

NUMBERS = {
    "determinant": "factor by which a small volume changes: 1 is unchanged, below 1 contraction, above 1 expansion",
    "98 % of the voxels": "the same without the lowest and the highest percent",
    "standard deviation of its logarithm": "variation of the volume change: 0 for a rigid transform, 0.1 is about 10 %",
    "folding": "voxels where the transform turns tissue inside out; should be 0",
    "non-diffeomorphic volume": "folded volume, including folding between voxels; should be 0",
    "inverse consistency, 95 %": "95th percentile of the distance of points from their start, mapped there and back",
    "affine part": "largest change of a length (factor) and of a right angle; the determinant is the overall change of volume",
}
