#!/usr/bin/env python-real
# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Command line module for 3D Slicer: registers two volumes; ``--xml`` prints its description."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DESCRIPTION = Path(__file__).with_suffix(".xml")


def parser() -> argparse.ArgumentParser:
    """The arguments that the XML description names."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--preset", default="default")
    made.add_argument("--transform", default="deformable")
    made.add_argument("--fixedMask", default="")
    made.add_argument("--movingMask", default="")
    made.add_argument("--outputTransform", default="")
    made.add_argument("--outputVolume", default="")
    made.add_argument("fixedVolume")
    made.add_argument("movingVolume")
    return made


def main(words: list[str]) -> int:
    """Register, and put the outputs where Slicer expects them; returns the exit code."""
    if words == ["--xml"]:
        sys.stdout.write(DESCRIPTION.read_text(encoding="utf-8"))
        return 0
    args = parser().parse_args(words)
    wanted = {"warped.nii.gz": args.outputVolume, "transform.h5": args.outputTransform}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "monai_locor", "register", args.fixedVolume, args.movingVolume, "-o", folder]
        command += ["--preset", args.preset, "--transform", args.transform, "--outputs", "warped,composite"]
        for option, mask in (("--fixed-mask", args.fixedMask), ("--moving-mask", args.movingMask)):
            command += [option, mask] if mask else []
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 1):  # 1: the verdict is FAIL, and all outputs are there
            return code
        for name, target in wanted.items():
            if target:
                _place(Path(folder, name), Path(target))
    return 0


def _place(source: Path, target: Path) -> None:
    """Copy a file; a volume is converted to the format of the target's name."""
    if source.name.endswith(".nii.gz") and not target.name.endswith(".nii.gz"):
        from monai_locor.geometry import Grid
        from monai_locor.io import read_image, write_image

        image, _ = read_image(source)
        write_image(target, image, Grid.of(image))
        return
    shutil.copyfile(source, target)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
