# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

r"""Recovery of a known deformation between images that are not exactly aligned without it, such as CT and MR templates.

The error of such a case against its truth also counts that the two templates differ, and favors methods that move little. So
each method also registers the pair without the deformation, and is compared with what it found there, see `recovery` in
`_score.py`. A method that is consistent has no error, whatever it takes for the alignment of the undeformed pair.

    python benchmarks/recovery.py CASES head_ct_t1 brain_pet_t1_2mm --originals DATA --tools monai_locor ants-quick \
        --python PEERS/bin/python --json recovery.json --resume

The names of the originals are in the `case.json` of each case.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _score import SLACK, recovery
from _tables import medians, table
from nibabel.filebasedimages import ImageFileError
from registration import Job, attempt, check, command_line, jobs, record_of, scored, versions_of

NEEDED = ("case.json", "mask.nii.gz", "truth.nii.gz")
COLUMNS = (  # heading, key of a run, format
    ("before, mm", "tre_before_mm", ".2f"),
    ("TRE mean, mm", "tre_mm", ".2f"),
    ("offset without deformation, mm", "offset_mm", ".2f"),
    ("recovery error mean, mm", "recovered_mm", ".2f"),
    ("recovery error 95 %, mm", "recovered_p95_mm", ".2f"),
)


def undisturbed(case: Path, data: Path, folder: Path) -> Path:
    """Write the case without its deformation to a folder: the original fixed image and the moving image.

    Raises:
        ValueError: when the original has another grid, since then the fixed image was not made of it by a deformation alone.
        OSError: when a file is missing.
    """
    named = json.loads((case / "case.json").read_text(encoding="utf-8"))["fixed"]
    original, image = nib.squeeze_image(nib.load(data / named)), nib.load(case / "fixed.nii.gz")
    if original.shape != image.shape or not np.allclose(original.affine, image.affine, atol=SLACK):
        raise ValueError(f"{case.name}: {named} does not lie on the grid of the fixed image")
    folder.mkdir(parents=True, exist_ok=True)
    values = np.asarray(original.dataobj, dtype=np.float32)
    nib.save(nib.Nifti1Image(values, original.affine), folder / "fixed.nii.gz")
    shutil.copyfile(case / "moving.nii.gz", folder / "moving.nii.gz")
    return folder


def run(job: Job, plain: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Register a case and the case without its deformation, and score both."""
    found = attempt(job, out / "case", options)
    if found["problem"]:
        return found
    other = attempt(Job(plain, job.preset, job.seed, job.tool), out / "plain", options)
    if other["problem"]:
        return found | {"problem": f"without deformation: {other['problem']}"}
    return scored(found, lambda: recovery(job.case, out / "case", out / "plain", plain / "fixed.nii.gz"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--originals", type=Path, required=True, metavar="DIR", help="images that the cases were made of")
    options = parser.parse_args(arguments)
    check(parser, options)
    lacking = [case.name for case in options.cases if not all((case / name).exists() for name in NEEDED)]
    if lacking:
        parser.error(f"{options.folder}: {', '.join(lacking)} lack one of {', '.join(NEEDED)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print the table."""
    options = parse(arguments)
    record = record_of(options, lambda content: {"rows": medians(content["runs"], COLUMNS)})
    with tempfile.TemporaryDirectory() as temporary:
        try:
            plain = {case: undisturbed(case, options.originals, Path(temporary) / case.name) for case in options.cases}
        except (OSError, ValueError, ImageFileError) as error:
            sys.exit(f"error: {error}")
        for job in jobs(options):
            if not record.has(**job.key):
                record.add(run(job, plain[job.case], (options.output or Path(temporary) / "out") / job.folder, options))
                print(table(medians(record.runs[-1:], COLUMNS), COLUMNS).splitlines()[-1], file=sys.stderr)
    print(versions_of(record), table(medians(record.runs, COLUMNS), COLUMNS), sep="\n\n")


if __name__ == "__main__":
    main()
