# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Datalist for a network trained on all head images whose licenses allow it: five sources, four contrasts and CT.

Subjects 1 to 6 of NiChart in both directions, two patients with multiple sclerosis, one with a stroke, and templates of CT and
T1; subjects 7 and 8 of NiChart select the weights, 9 to 12 are left for tests. Images without a skull get a mask of their
voxels above the lowest value. The images under the GPL (averages of MR, PET and SPECT) are left out.

    python benchmarks/pooled_data.py DATA --output out          # writes out/pooled.json and the masks
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from monai_locor.geometry import Grid
from monai_locor.io import read_image, write_image

TRAINING = range(1, 7)
VALIDATION = range(7, 9)
# name: fixed image, moving image, whether the skull is removed
OTHERS = {
    "openms_flair_t1": ("openms_patient07_FLAIR", "openms_patient07_T1", True),
    "openms_t1_t2": ("openms_patient07_T1", "openms_patient07_T2", True),
    "stroke_flair_t1": ("stroke_FLAIR", "stroke_T1", True),
    "stroke_t1_t2": ("stroke_T1", "stroke_T2", True),
    "clinical1_flair_t1": ("clinical/visit1_FLAIR", "clinical/visit1_T1W", False),
    "clinical2_t1_t2": ("clinical/visit2_T1W", "clinical/visit2_T2W", False),
    "templates_ct_t1": ("head_CT", "head_T1", False),
}


def datalist(data: Path, output: Path) -> dict[str, list[dict[str, str]]]:
    """The lists ``training`` and ``validation``; masks are written into ``output``."""
    training = []
    for number in TRAINING:
        t1, flair = (str(data / f"nichart/Subj{number:02d}_{contrast}.nii.gz") for contrast in ("T1", "FLAIR"))
        training.append({"name": f"nichart{number}_flair_t1", "fixed": flair, "moving": t1})
        training.append({"name": f"nichart{number}_t1_flair", "fixed": t1, "moving": flair})
    for name, (fixed, moving, brain_only) in OTHERS.items():
        item = {"name": name, "fixed": str(data / f"{fixed}.nii.gz"), "moving": str(data / f"{moving}.nii.gz")}
        if brain_only:
            item |= {f"{role}_mask": str(mask(Path(item[role]), output)) for role in ("fixed", "moving")}
        training.append(item)
    validation = []
    for number in VALIDATION:
        t1, flair, labels, carried = (
            str(data / f"nichart/Subj{number:02d}_{part}.nii.gz") for part in ("T1", "FLAIR", "labels", "labels_on_flair")
        )
        item = {"name": f"nichart{number}", "fixed": flair, "moving": t1, "fixed_label": carried, "moving_label": labels}
        validation.append(item)
    return {"training": training, "validation": validation}


def mask(path: Path, output: Path) -> Path:
    """Write the mask of an image's voxels above its lowest value."""
    image, _ = read_image(path, "fixed")
    written = output / f"mask_{path.name}"
    write_image(written, (image > image.min()).float(), Grid.of(image), "uint8")
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the images")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="pooled.json and masks")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    content = datalist(options.data.resolve(), options.output.resolve())
    (options.output / "pooled.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
