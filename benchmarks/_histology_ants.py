# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Map landmarks by ANTs, for `histology.py`: ``python _histology_ants.py KIND FOLDER``.

The folder holds `fixed.npy` and `moving.npy`, ``(X, Y)``, and `points.npy`, ``(N, 2)`` pixels of the fixed picture;
`moved.npy` is written. Needs antspyx.
"""

import sys
from pathlib import Path

import ants
import numpy as np
import pandas

kind, folder = sys.argv[1], Path(sys.argv[2])
images = [ants.from_numpy(np.load(folder / f"{role}.npy", allow_pickle=False)) for role in ("fixed", "moving")]
found = ants.registration(*images, type_of_transform=kind, outprefix=str(folder / "out"), random_seed=1)
points = pandas.DataFrame(np.load(folder / "points.npy", allow_pickle=False), columns=["x", "y"])
moved = ants.apply_transforms_to_points(2, points, found["fwdtransforms"])
np.save(folder / "moved.npy", moved[["x", "y"]].to_numpy())
