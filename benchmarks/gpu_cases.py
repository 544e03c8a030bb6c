# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pack cases with a known answer into small files for a machine with a GPU.

The cases of the folder BENCH (its `make_cases.py` deforms the images of DATA) are made and packed: images as 16-bit integers
with a scale; the truth where it is scored, in the mask, in steps of 0.002 mm, as differences of neighbors, which take a third
of the room. No score can change by more than the mean rounding error, which must stay below 0.001 mm. Unpacked, they are
cases as `registration.py` takes them.

    python benchmarks/gpu_cases.py pack ../shared/bench ../shared/data .gpu/cases
    python benchmarks/gpu_cases.py unpack .gpu/cases build/gpu_cases
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from _peer import write_field

CASES = ("brain_t2_t1_2mm", "head_pd_t2_2mm", "brain_pet_t1_2mm", "brain_spect_t2_2mm", "brain_t2_t1_1mm")
STEP = 0.002  # mm, of the truth; the mean length of the rounding error is 0.48 of it
WORST = 0.001  # mm that a score may change by
IMAGE_LEVELS = 4095  # of an image: noise is larger than a step
MOST = 20 * 2**20  # bytes of all cases together


def store_image(source: Path, path: Path) -> None:
    """Store an image in integer steps of its range; integers that fit are kept."""
    image = nib.load(source)
    data = np.asarray(image.dataobj, dtype=np.float64)
    low, high = float(data.min()), float(data.max())
    step = 1.0 if (data == np.rint(data)).all() and high - low < 2**15 else (high - low) / IMAGE_LEVELS
    _save(np.rint((data - low) / step), image.affine, path, step, low)


def store_truth(source: Path, mask: np.ndarray, path: Path) -> float:
    """Store a displacement field in integer steps, zero outside the mask; return the mean length of the rounding error, mm.

    Raises:
        ValueError: when a component does not fit 16 bits.
    """
    data = np.asarray(nib.load(source).dataobj, dtype=np.float64)[..., 0, :]
    steps = np.where(mask[..., None], np.rint(data / STEP), 0)
    if np.abs(steps).max() >= 2**15:
        raise ValueError(f"{source}: {np.abs(data[mask]).max():.1f} mm do not fit")
    differences = steps.astype(np.int16)
    for axis in range(3):
        differences = np.diff(differences, axis=axis, prepend=np.int16(0))  # modulo 2^16, as their sums
    np.savez_compressed(path, differences=differences)
    return float(np.linalg.norm((read_truth(path) - data)[mask], axis=-1).mean())


def read_truth(path: Path) -> np.ndarray:
    """Read the output of `store_truth`: ``(X, Y, Z, 3)``, mm."""
    steps = np.load(path, allow_pickle=False)["differences"]
    for axis in range(3):
        steps = np.cumsum(steps, axis=axis, dtype=np.int16)
    return steps * STEP


def _save(steps: np.ndarray, affine: np.ndarray, path: Path, slope: float, start: float) -> None:
    """Save integers with their scale."""
    image = nib.Nifti1Image(steps.astype(np.int16), affine)
    image.header.set_slope_inter(slope, start)
    nib.save(image, path)


def pack(case: Path, out: Path) -> None:
    """Pack one case.

    Raises:
        ValueError: when its truth would change too much.
    """
    out.mkdir(parents=True, exist_ok=True)
    for role in ("fixed", "moving"):
        store_image(case / f"{role}.nii.gz", out / f"{role}.nii.gz")
    shutil.copyfile(case / "mask.nii.gz", out / "mask.nii.gz")
    mask = np.asarray(nib.load(case / "mask.nii.gz").dataobj) > 0
    error = store_truth(case / "truth.nii.gz", mask, out / "truth.npz")
    if error > WORST:
        raise ValueError(f"{case.name}: the truth changes by {error:.4f} mm on average, more than {WORST} mm")


def unpack(case: Path, out: Path) -> Path:
    """Unpack a case, with the truth as a field that ITK reads; return its folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("fixed", "moving", "mask"):
        shutil.copyfile(case / f"{name}.nii.gz", out / f"{name}.nii.gz")
    write_field(out / "truth.nii.gz", read_truth(case / "truth.npz"), case / "fixed.nii.gz")
    return out


def packed_cases(folder: Path) -> list[Path]:
    """Folders of packed cases, small images first."""
    found = [path.parent for path in folder.glob("*/truth.npz")]
    return sorted(found, key=lambda case: (size_of(case), case.name))


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make and pack the cases")
    packing.add_argument("bench", type=Path, help="folder of make_cases.py and cases.json")
    packing.add_argument("data", type=Path, help="folder of the images")
    packing.add_argument("output", type=Path)
    packing.add_argument("--cases", nargs="+", default=list(CASES), metavar="CASE")
    unpacking = commands.add_parser("unpack", help="cases as registration.py takes them")
    unpacking.add_argument("packed", type=Path)
    unpacking.add_argument("output", type=Path)
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> None:
    """Make and pack the cases; old ones are replaced at the end."""
    with tempfile.TemporaryDirectory() as folder:
        made, small = Path(folder) / "made", Path(folder) / "small"
        script = [options.bench / "make_cases.py", options.bench / "cases.json", options.data, made, *options.cases]
        subprocess.run([sys.executable, *map(str, script)], check=True, stdout=subprocess.DEVNULL)
        for name in options.cases:
            pack(made / name, small / name)
        if size_of(small) > MOST:
            sys.exit(f"error: the cases take {size_of(small) / 2**20:.1f} MiB, more than {MOST / 2**20:.0f}")
        shutil.rmtree(options.output, ignore_errors=True)
        shutil.copytree(small, options.output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    if options.command == "pack":
        make(options)
    else:
        for case in packed_cases(options.packed):
            unpack(case, options.output / case.name)
    count = sum(path.is_dir() for path in options.output.iterdir())
    print(f"{options.output}: {count} cases, {size_of(options.output) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
