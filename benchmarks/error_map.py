# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Calibration of the error map on transforms with a known error, and its judgment on others.

    python benchmarks/error_map.py collect calibration.jsonl samples     # resumable, one file per transform
    python benchmarks/error_map.py fit samples monai_locor/quality/error_model.json
    python benchmarks/error_map.py judge judgment.jsonl --lines judged.jsonl

A list has one JSON object per line: "case", a folder as in benchmarks/README.md; "kind"; "name" of the transform;
"transforms", its displacement fields, of which the first is judged; with several, from other seeds, their spread is compared
with the map.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from _score import read_field
from scipy.stats import spearmanr

from monai_locor.geometry import Grid, warp
from monai_locor.io import read_image
from monai_locor.quality import estimate_error
from monai_locor.quality.error_estimate import determined_nodes
from monai_locor.quality.error_features import FEATURES, ErrorSamples, local_features

NODES_PER_TRANSFORM = 2000  # random nodes, so that large images do not count more
WEIGHTS = {"s4": 3.0, "s16": 0.5}  # of transforms by the last word of their name: finished registrations count most
PENALTY = 0.1  # of the squared coefficients of standardized features
REACH = 0.995  # quantile of the features that limits them
KNOTS = {0.02: 0.03, 0.15: 0.1, 0.35: 0.15, 0.6: 0.15, 0.85: 0.15}  # share of the nodes with a lower score, and its window
TAIL = 0.05  # share of the errors below and above the interval


@dataclass(frozen=True, eq=False)
class Case:
    """A pair with a known truth.

    Attributes:
        images: fixed and moving image, ``(1, *grid)``.
        grids: their grids.
        header: the fixed image as a file.
        truth: displacement, ``(3, *fixed)``, RAS mm.
        mask: where the error is measured, ``(*fixed)`` bool.
    """

    images: list[torch.Tensor]
    grids: list[Grid]
    header: Any
    truth: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def read(cls, folder: Path) -> Case:
        """Read a case."""
        images = [read_image(folder / f"{role}.nii.gz", role)[0] for role in ("fixed", "moving")]
        header = nib.load(folder / "fixed.nii.gz")
        mask = torch.ones(images[0].shape[1:], dtype=torch.bool)
        if (folder / "mask.nii.gz").exists():
            mask = torch.from_numpy(np.asarray(nib.load(folder / "mask.nii.gz").dataobj).reshape(mask.shape) > 0)
        truth = _components_first(read_field(folder / "truth.nii.gz", header))
        return cls([i.as_tensor() for i in images], [Grid.of(i) for i in images], header, truth, mask)

    def field(self, path: str) -> torch.Tensor:
        """A displacement, ``(3, *fixed)``: a NIfTI file in LPS, or an array in RAS."""
        if path.endswith(".npy"):
            return torch.from_numpy(np.load(path, allow_pickle=False))
        return _components_first(read_field(Path(path), self.header))

    def errors(self, forward_mm: torch.Tensor) -> torch.Tensor:
        """True error of every voxel, ``(*fixed)`` mm."""
        return torch.linalg.vector_norm(forward_mm - self.truth, dim=0)


def _components_first(field: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(field, -1, 0).astype(np.float32))


def listed(path: Path) -> Iterator[tuple[Case, dict[str, Any]]]:
    """The entries of a list, each with its case."""
    last, case = None, None
    for entry in map(json.loads, filter(str.strip, path.read_text().splitlines())):
        if entry["case"] != last:
            last, case = entry["case"], None
        yield case or (case := Case.read(Path(last))), entry


def collect(path: Path, out: Path) -> None:
    """Write features and true errors at random determined nodes inside the mask, in distances of the samples."""
    out.mkdir(parents=True, exist_ok=True)
    for case, entry in listed(path):
        name = f"{Path(entry['case']).name} {entry['name']}"
        file = out / f"{name.replace(' ', '_').replace(',', '')}.npz"
        if file.exists():
            continue
        (fixed, moving), (fixed_grid, moving_grid), forward = case.images, case.grids, case.field(entry["transforms"][0])
        samples = ErrorSamples.of((fixed, None, fixed_grid), (moving, None, moving_grid), forward)
        if samples is None:
            print(f"{name}: no samples")
            continue
        found = local_features(samples, fixed_grid, forward)
        known, step = determined_nodes(found), float(samples.grid.spacing[0])
        on_lattice = torch.stack((case.errors(forward), case.mask.float()))
        error, inside = warp(on_lattice, fixed_grid, None, found.lattice, padding_mode="border")
        chosen = (known & (inside > 0.5)).flatten().nonzero()[:, 0]
        drawn = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(chosen))[:NODES_PER_TRANSFORM]
        values = found.values.flatten(1)
        np.savez(
            file,
            features=values[:, chosen[drawn]].numpy(),
            typical=values[:, known.flatten()].median(1).values.numpy(),
            error=error.flatten()[chosen[drawn]].numpy() / step,
            step=step,
            entry=json.dumps(entry),
        )
        print(f"{name}: {float(case.errors(forward)[case.mask].mean()):.2f} mm, {len(drawn)} nodes", flush=True)


@dataclass(frozen=True, eq=False)
class Sampled:
    """The nodes of a transform: features ``(N, F)``, typical values ``(F,)``, errors ``(N,)``, case, kind and others."""

    features: np.ndarray
    typical: np.ndarray
    error: np.ndarray
    case: str
    kind: str
    name: str
    step: float
    weight: float

    @classmethod
    def read(cls, path: Path) -> Sampled:
        """Read a file of :func:`collect`."""
        with np.load(path, allow_pickle=False) as found:
            entry = json.loads(str(found["entry"]))
            numbers = found["features"].T, found["typical"], found["error"]
            name, step = entry["name"], float(found["step"])
            return cls(*numbers, Path(entry["case"]).name, entry["kind"], name, step, WEIGHTS.get(name.split()[-1], 1.0))


SMALLEST_ERROR = 0.02  # added to errors before the logarithm, distances of the samples


def linear_model(parts: Sequence[Sampled]) -> dict[str, Any]:
    """Coefficients by ridge regression of the logarithm of the error; each transform has the same weight."""
    apart = np.concatenate([p.features - p.typical for p in parts])
    typical = np.stack([p.typical for p in parts])
    reach, low, high = np.quantile(np.abs(apart), REACH, axis=0), typical.min(0), typical.max(0)
    inputs = np.hstack([apart.clip(-reach, reach), np.repeat(typical, [len(p.error) for p in parts], axis=0)])
    target = np.log(np.concatenate([p.error for p in parts]) + SMALLEST_ERROR)
    weight = _weights(parts)
    mean, goal = weight @ inputs, weight @ target
    spread = np.sqrt(weight @ (inputs - mean) ** 2) + 1e-6
    scaled = (inputs - mean) / spread
    moments = (scaled * weight[:, None]).T @ scaled + PENALTY * np.eye(scaled.shape[1])
    coefficients = np.linalg.solve(moments, scaled.T @ (weight * (target - goal))) / spread
    half = len(reach)
    return {
        "reach": reach,
        "low": low,
        "high": high,
        "local": coefficients[:half],
        "typical": coefficients[half:],
        "intercept": float(goal - coefficients @ mean),
    }


def _weights(parts: Sequence[Sampled]) -> np.ndarray:
    """Weights of all nodes, which sum to one."""
    out = np.concatenate([np.full(len(p.error), p.weight / len(p.error)) for p in parts])
    return out / out.sum()


def scores(model: Mapping[str, Any], part: Sampled) -> np.ndarray:
    """The score of every node, as in :meth:`monai_locor.quality.error_model.ErrorModel.score`."""
    apart = (part.features - part.typical).clip(-model["reach"], model["reach"])
    return apart @ model["local"] + part.typical.clip(model["low"], model["high"]) @ model["typical"] + model["intercept"]


def left_out_scores(parts: Sequence[Sampled]) -> list[np.ndarray]:
    """The scores of every transform by a model that was fitted without its case."""
    models = {case: linear_model([p for p in parts if p.case != case]) for case in {p.case for p in parts}}
    return [scores(models[p.case], p) for p in parts]


def curves(parts: Sequence[Sampled], found: Sequence[np.ndarray]) -> dict[str, Any]:
    """Functions of the score: mean error and quantiles, from :func:`left_out_scores` (cross-conformal)."""
    score, error, weight = np.concatenate(found), np.concatenate([p.error for p in parts]), _weights(parts)
    order = np.argsort(score)
    position = np.cumsum(weight[order])
    knots, rows = [], []
    for center, reach in KNOTS.items():
        near = order[np.abs(position - center) <= reach]
        knots.append(float(np.average(score[near], weights=weight[near])))
        bounds = _quantiles(error[near], weight[near], (TAIL, 1 - TAIL))
        rows.append([np.average(error[near], weights=weight[near]), *bounds])
    monotone = np.maximum.accumulate(np.log(np.array(rows) + 1e-3), axis=0).T
    return {"scores": knots, "curves": dict(zip(("expected", "low", "high"), monotone.tolist(), strict=True))}


def held_out(parts: Sequence[Sampled], found: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Coverage and rank correlation of every transform, with model and functions fitted without its case."""
    out = []
    for case in sorted({p.case for p in parts}):
        others = [k for k, p in enumerate(parts) if p.case != case]
        made = curves([parts[k] for k in others], [found[k] for k in others])
        for part, score in ((p, x) for p, x in zip(parts, found, strict=True) if p.case == case):
            expected, low, high = (np.exp(np.interp(score, made["scores"], c)) for c in made["curves"].values())
            out.append(
                {
                    "case": case,
                    "kind": part.kind,
                    "name": part.name,
                    "error_mm": part.step * float(part.error.mean()),
                    "expected_mm": part.step * float(expected.mean()),
                    "coverage": float(((part.error >= low) & (part.error <= high)).mean()),
                    "rank": float(spearmanr(score, part.error).statistic),
                }
            )
    return out


def _quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    position = np.cumsum(weight[order]) / weight.sum()
    return [float(values[order][np.searchsorted(position, share).clip(0, len(values) - 1)]) for share in shares]


def fit(folder: Path, out: Path) -> None:
    """Fit the model to the files of :func:`collect` and write it."""
    parts = [Sampled.read(path) for path in sorted(folder.glob("*.npz"))]
    kinds = defaultdict(set)
    for part in parts:
        kinds[part.kind].add(part.case)
    found = left_out_scores(parts)
    print("\n".join(json.dumps(_rounded(record)) for record in held_out(parts, found)))
    rank = spearmanr(np.concatenate(found), np.concatenate([p.error for p in parts])).statistic
    print(f"rank correlation over the nodes of all left-out cases: {rank:.2f}")
    model = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in linear_model(parts).items()}
    provenance = {
        "made_by": "benchmarks/error_map.py",
        "transforms": len(parts),
        "nodes": sum(len(p.error) for p in parts),
        "cases": {kind: sorted(cases) for kind, cases in sorted(kinds.items())},
    }
    content = {"provenance": provenance, "features": FEATURES, **_rounded(model), **_rounded(curves(parts, found))}
    out.write_text(json.dumps(content, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_rounded(x) for x in value]
    return round(value, 4) if isinstance(value, float) else value


def judge(path: Path, lines: Path) -> None:
    """Write a record per transform: coverage, rank correlation, time."""
    done = {json.loads(line)["id"] for line in lines.read_text().splitlines()} if lines.exists() else set()
    for case, entry in listed(path):
        name = f"{Path(entry['case']).name}, {entry['name']}"
        if name in done:
            continue
        fields = [case.field(p) for p in entry["transforms"]]
        began = time.process_time()
        found = estimate_error(case.images[0], case.grids[0], case.images[1], case.grids[1], fields[0])
        seconds = time.process_time() - began
        record = {"id": name, **entry, **_judged(case, found, fields), "cpu_seconds": round(seconds, 2)}
        with lines.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps({k: v for k, v in record.items() if k not in ("case", "transforms")}), flush=True)


def _judged(case: Case, found: Any, fields: Sequence[torch.Tensor]) -> dict[str, Any]:
    error, known = case.errors(fields[0]), found.determined & case.mask
    true, expected, low, high = (x[known].numpy() for x in (error, found.expected_mm, found.low_mm, found.high_mm))
    out = {
        "voxels": int(known.sum()),
        "undetermined": round(1 - float(known.sum() / case.mask.sum()), 4),
        "error_mm": round(float(true.mean()), 3),
        "expected_mm": round(float(expected.mean()), 3),
        "coverage": round(float(((true >= low) & (true <= high)).mean()), 4),
        "above": round(float((true > high).mean()), 4),
        "below": round(float((true < low).mean()), 4),
        "rank": round(float(spearmanr(expected[::5], true[::5]).statistic), 3),
    }
    if len(fields) > 1:
        spread = torch.stack(fields).var(0).sum(0).sqrt()[known].numpy()
        out["rank_of_seeds"] = round(float(spearmanr(spread[::5], true[::5]).statistic), 3)
    return out


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, names in (("collect", ("list", "folder")), ("fit", ("folder", "model")), ("judge", ("list",))):
        command = commands.add_parser(name)
        for argument in names:
            command.add_argument(argument, type=Path)
        if name == "judge":
            command.add_argument("--lines", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "collect":
        collect(args.list, args.folder)
    elif args.command == "fit":
        fit(args.folder, args.model)
    else:
        judge(args.list, args.lines)


if __name__ == "__main__":
    main()
