# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Missing tissue: cavities cut out of one image of pairs with a known answer.

Each case is registered intact, and with cavities of 10 to 60 ml in the fixed or moving image (see `_cavity.py`), with the
given words of the setting `missing`. Prints the error outside the cavity relative to that of the intact pair at the same
voxels, within 10 mm of the cavity and beyond; the change of the volume of tissue around it; and how well the map separates the
cavity from the rest.

    python benchmarks/missing.py CASES brain_t2_t1_2mm --preset draft --words map auto --cuts 0 1 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _cavity import Cut, cut
from _score import read_field
from _tables import markdown
from registration import about
from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening, distance_transform_edt, label, map_coordinates
from scipy.stats import rankdata

# image that is cut, filling, ml, seed
CUTS = (
    *(("fixed", "csf", 30, 1), ("moving", "zero", 30, 2), ("fixed", "zero", 60, 3), ("moving", "csf", 60, 4)),
    *(("fixed", "rim", 20, 5), ("moving", "metal", 15, 6), ("fixed", "csf", 10, 7), ("moving", "rim", 30, 8)),
)
RIM_MM = 10.0  # distance from the cavity within which errors are given separately
AROUND_MM = 15.0  # distance from the cavity within which volumes are compared
MIN_TISSUE = 0.08  # relative to the intensity range
BRIGHT_FLUID = ("T2", "PD")  # in the file name of an image; fluid is dark in others
COLUMNS = ("case", "cut", "ml", "missing", "error", "rim", "beyond", "volume %", "AUROC", "found ml", "seconds")


class Case:
    """The files of a case on the grid of its fixed image; displacements are RAS mm, ``(X, Y, Z, 3)``."""

    def __init__(self, folder: Path) -> None:
        self.name, self.described = folder.name, json.loads((folder / "case.json").read_text(encoding="utf-8"))
        files = {role: nib.load(folder / f"{role}.nii.gz") for role in ("fixed", "moving")}
        self.images = {role: np.asarray(f.dataobj, np.float32).reshape(f.shape[:3]) for role, f in files.items()}
        self.affines = {role: f.affine for role, f in files.items()}
        self.spacings = {role: np.linalg.norm(a[:3, :3], axis=0) for role, a in self.affines.items()}
        self.truth = read_field(folder / "truth.nii.gz", files["fixed"])
        self.mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj).reshape(self.truth.shape[:3]) > 0
        self.tissue = {role: tissue(image) for role, image in self.images.items()}
        self.tissue["fixed"] &= self.mask

    def cut(self, role: str, kind: str, ml: float, seed: int) -> tuple[dict[str, np.ndarray], Cut]:
        """Both images, one of them with a cavity; and the cavity on the fixed grid."""
        dark = not any(word in self.described[role] for word in BRIGHT_FLUID)
        rng = np.random.default_rng(seed)
        made = cut(self.images[role], self.tissue[role], self.spacings[role], ml, kind, dark, rng)
        images = {**self.images, role: made.image}
        if role == "fixed":
            return images, made
        points = (
            np.moveaxis(np.indices(self.mask.shape), 0, -1) @ self.affines["fixed"][:3, :3].T + self.affines["fixed"][:3, 3]
        )
        index = (points + self.truth - self.affines["moving"][:3, 3]) @ np.linalg.inv(self.affines["moving"][:3, :3]).T
        hole, changed = (
            map_coordinates(x.astype(np.float32), np.moveaxis(index, -1, 0), order=1) > 0.5 for x in (made.hole, made.changed)
        )
        return images, dataclasses.replace(made, hole=hole, changed=changed)

    def determinant(self, field: np.ndarray) -> np.ndarray:
        """Volume of a voxel in the moving image, relative to that in the fixed image."""
        affine = self.affines["fixed"][:3, :3]
        rows = [np.stack([np.gradient(field[..., k], axis=a) + affine[k, a] for a in range(3)], -1) for k in range(3)]
        return np.linalg.det(np.stack(rows, -2)) / np.linalg.det(affine)


def tissue(image: np.ndarray) -> np.ndarray:
    """The largest connected bright region without holes, bool."""
    low, high = np.percentile(image, (1, 99))
    bright = image > low + MIN_TISSUE * (high - low)
    solid = binary_fill_holes(binary_opening(binary_closing(bright, iterations=2), iterations=2))
    labels, _ = label(solid)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def registered(case: Case, images: dict[str, np.ndarray], word: str, options: argparse.Namespace) -> Any:
    """Result of a registration."""
    from monai_locor import RegistrationConfig, register

    given = ((images[role], case.affines[role]) for role in ("fixed", "moving"))
    config = dataclasses.replace(RegistrationConfig.of(options.preset), missing=word)
    return register(*given, preset=config, seed=options.seed, device="cpu", progress=False)


def row(case: Case, made: Cut, intact: np.ndarray, result: Any) -> dict[str, Any]:
    """Errors relative to those of the intact pair, change of volume, area under the ROC curve of the map."""
    field = np.moveaxis(np.asarray(result.forward_mm), 0, -1).astype(np.float64)
    before, after = (np.linalg.norm(f - case.truth, axis=-1) for f in (intact, field))
    outside, distance = case.mask & ~made.hole, distance_transform_edt(~made.hole, case.spacings["fixed"])
    parts = {"error": outside, "rim": outside & (distance <= RIM_MM), "beyond": outside & (distance > RIM_MM)}
    around = outside & case.tissue["fixed"] & (distance <= AROUND_MM)
    found: dict[str, Any] = {n: round(float(after[m].mean() / before[m].mean()), 3) for n, m in parts.items() if m.any()}
    if around.any():
        volumes = [float(case.determinant(f)[around].sum()) for f in (intact, field)]
        found["volume %"] = round(100 * (volumes[1] / volumes[0] - 1), 2)
    if result.missing_fixed is not None:
        judged = case.mask & case.tissue["fixed"] & (made.hole | ~made.changed)
        score = np.asarray(result.missing_fixed)[0]
        found["AUROC"] = round(area_under_curve(score[judged], made.hole[judged]), 3)
        found["found ml"] = result.missing_ml["fixed"]
    return found | {"seconds": round(result.seconds, 1)}


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative; ties count one half."""
    count = int(positive.sum())
    if count in (0, len(score)):
        return float("nan")
    return float((rankdata(score)[positive].sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def measured(case: Case, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of a case: the intact pair with every word, then the cavities."""
    nothing = Cut(case.images["fixed"], np.zeros_like(case.mask), np.zeros_like(case.mask))
    base = registered(case, case.images, "never", options)
    intact = np.moveaxis(np.asarray(base.forward_mm), 0, -1).astype(np.float64)
    for word in options.words:
        if word == "auto":  # the others have the transform of the base
            yield {"case": case.name, "cut": "intact", "missing": word} | row(
                case, nothing, intact, registered(case, case.images, word, options)
            )
    for number in options.cuts:
        role, kind, ml, seed = CUTS[number]
        images, made = case.cut(role, kind, ml, seed)
        size = round(float(made.hole.sum() * np.prod(case.spacings["fixed"])) / 1000)
        for word in options.words:
            found = row(case, made, intact, registered(case, images, word, options))
            yield {"case": case.name, "cut": f"{kind} in {role}", "ml": size, "missing": word} | found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of cases with truth.nii.gz and mask.nii.gz")
    parser.add_argument("cases", nargs="+", metavar="CASE")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--words", nargs="+", default=["map", "auto"], choices=("never", "map", "auto"))
    parser.add_argument("--cuts", type=int, nargs="+", default=list(range(len(CUTS))), choices=range(len(CUTS)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu",))
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    import torch

    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.cases:
        for found in measured(Case(options.folder / name), options):
            rows.append(found)
            print(found, flush=True)
            if options.json:
                options.json.write_text(
                    json.dumps({"machine": about(options), "preset": options.preset, "rows": rows}, indent=1)
                )
    print(markdown(COLUMNS, [[str(found.get(name, "")) for name in COLUMNS] for found in rows]))


if __name__ == "__main__":
    main()
