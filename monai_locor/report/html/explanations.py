# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the numbers of a report mean, in plain words."""

from __future__ import annotations

__all__ = ["CHECKS", "NUMBERS"]

CHECKS = {
    "voxels": "Only voxels inside both masks and both fields of view drive the registration. It needs a few hundred at least.",
    "overlap": "Where the images show different parts of the body, there is nothing to align. 100 %: one lies in the other.",
    "information gain": "Normalized mutual information tells how well one image predicts the other: 1 is not at all, 2 is "
    "perfectly. After a registration it should be higher than at the start, or the same if the images were aligned before.",
    "alignment": "A good result becomes worse when it is displaced a little. If it does not, the images do not match here.",
    "affine": "Factor by which the affine part stretches lengths, and angle by which it shears. In two scans of one "
    "person the factor is near 1 and the angle near 0.",
    "folding": "Where the transform folds, two points land in the same place, which no tissue does. It should be 0.",
    "volume change": "The Jacobian determinant is the factor by which the transform changes a small volume: 1 keeps it, 0.5 "
    "halves it, 2 doubles it.",
    "inverse": "A point is sent to the moving image and back. The distance from where it started should be below a voxel.",
    "stages": "The optimization goes in stages from coarse to fine. A stage in which the images do not meet changes nothing.",
    "convergence": "How much the loss was still changing when the optimization stopped. A large share: it was not finished.",
    "steps": "A step whose loss is infinite or not a number is left out.",
    "warning": "Found while the images were read or registered.",
    "finished": "An interrupted run gives what it had reached.",
}

NUMBERS = {
    "determinant": "factor by which a small volume changes: 1 keeps it, below 1 shrinks, above 1 grows",
    "98 % of the voxels": "the same without the one per cent that is lowest and the one that is highest",
    "standard deviation of its logarithm": "how unevenly volumes change: 0 for a rigid transform, 0.1 is about 10 %",
    "folding": "places where the transform turns tissue inside out; there should be none",
    "non-diffeomorphic volume": "folded volume, between the voxels as well; there should be none",
    "inverse consistency, 95 %": "how far 95 % of the points end from where they started, sent there and back",
    "affine part": "largest change of a length (factor) and of a right angle; its determinant is the overall change of volume",
}
