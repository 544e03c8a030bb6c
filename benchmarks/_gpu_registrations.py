# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of `gpu.py` that register: the cases with a known answer, large pairs, and two processes at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from _gpu_engines import short_preset, tensors_of
from _gpu_worker import Context, Row, guarded
from _measure import Measured, Spec, measure
from _ours import COST, _cost, ours
from _peer import write_field
from _score import FORWARD, read_field, score
from gpu_cases import packed_cases, unpack
from scaling import write_pair

from monai_locor import register

PRESETS = ("default", "fast")
SAME_MM = 0.01  # of the mean TRE, beside the CPU's runs
LARGE = {"256^3": (256, 256, 256), "512x512x300": (512, 512, 300)}
SHIFT_MM = 2.0  # of the synthetic pair, along the first axis
SAME_FIELD_MM = 0.01  # 95 % of the voxels, of runs on one GPU


def cases_of(context: Context) -> Iterator[Path]:
    """Folders of unpacked cases; for tiny sizes a synthetic one."""
    scratch = Path(context.scratch) / "cases"
    if context.smoke:
        folder = scratch / "synthetic"
        folder.mkdir(parents=True, exist_ok=True)
        write_pair(folder, (16, 18, 20))
        truth = np.broadcast_to(np.array([-SHIFT_MM, 0.0, 0.0]), (16, 18, 20, 3))  # LPS
        write_field(folder / "truth.nii.gz", truth, folder / "fixed.nii.gz")
        yield folder
        return
    for case in packed_cases(Path(context.cases)):
        yield unpack(case, scratch / case.name)


def preset_of(name: str, context: Context) -> str:
    """Its name; for tiny sizes a file with one step per stage."""
    if not context.smoke:
        return name
    path = Path(context.scratch) / f"{name}.json"
    path.write_text(json.dumps(short_preset(name, 1).to_dict()), encoding="utf-8")
    return str(path)


def reference_of(context: Context) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The CPU runs with the first seed, by case and preset, from all reference files."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for path in map(Path, context.reference):
        for run in json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else ():
            if run["seed"] == 0 and not run["problem"]:
                found.setdefault((run["case"], run["preset"]), []).append(run)
    return found


def compared(found: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> Row:
    """Error of the CPU runs, their spread, and the difference from them.

    The CPU runs differ only in the order of sums. Fails if this run is more than `SAME_MM` outside their range, or if the case
    is a different one.
    """
    if not known or "tre_mm" not in found:
        return {}
    if not all(math.isclose(found["tre_before_mm"], run["tre_before_mm"], abs_tol=1e-3) for run in known):
        return {"problem": "the CPU's numbers are of another case", "check": False}
    errors = [run["tre_mm"] for run in known]
    low, high = min(errors), max(errors)
    outside = max(low - found["tre_mm"], found["tre_mm"] - high, 0.0)
    row = {"cpu_tre_mm": errors[0], "difference_mm": found["tre_mm"] - errors[0], "check": outside <= SAME_MM}
    return row | ({"cpu_spread_mm": high - low} if len(errors) > 1 else {})


def shares(summary: Mapping[str, Any]) -> Row:
    """Seconds of the parts of a registration, from its record: of every stage, and of the search for a start."""
    stages = [entry["seconds"] for entry in summary["stages"]]
    found = {f"{name}_s": seconds for name, seconds in summary["timings"].items()}
    return {**found, "stages_s": [round(s, 3) for s in stages], "search_s": summary["timings"]["optimization"] - sum(stages)}


def cases(context: Context) -> Iterator[Row]:
    """Every prepared case with both presets, scored and compared with the CPU."""
    reference = reference_of(context)
    longest = 0.0
    for case in cases_of(context):
        for preset in PRESETS:
            before = context.left()
            row = {"case": case.name, "preset": preset}
            if before < 1.5 * longest:
                yield row | {"problem": "no time left"}
                continue
            yield guarded(row, lambda c=case, p=preset: _case_row(c, p, context, reference.get((c.name, p), [])))
            longest = max(longest, before - context.left())


def _case_row(case: Path, preset: str, context: Context, known: Sequence[Mapping[str, Any]]) -> Row:
    out = Path(context.scratch) / "results" / case.name / preset
    out.mkdir(parents=True, exist_ok=True)
    cost = ours(case, out, {"preset": preset_of(preset, context), "seed": 0, "device": context.device})
    found = score(case, out)
    spent = {"seconds": cost.seconds[0], "mib": cost.bytes / 2**20}
    return spent | found | shares(json.loads((out / "run.json").read_text(encoding="utf-8"))) | compared(found, known)


def large(context: Context) -> Iterator[Row]:
    """Time and memory of whole registrations of synthetic pairs, in memory."""
    sizes = {"24^3": (24, 24, 24)} if context.smoke else LARGE
    rate = 0.0  # seconds a voxel, the slowest so far
    for label, shape in sizes.items():
        pair = tensors_of(shape)
        for preset in reversed(PRESETS):
            row, before = {"size": label, "preset": preset}, context.left()
            if before < 1.2 * rate * math.prod(shape):
                yield row | {"problem": "no time left"}
                continue
            yield guarded(row, lambda pair=pair, p=preset: _large_row(pair, preset_of(p, context), context))
            rate = max(rate, (before - context.left()) / math.prod(shape))


def _large_row(pair: list[torch.Tensor], preset: str, context: Context) -> Row:
    if context.device != "cpu":
        torch.cuda.init()  # the allocator knows nothing before
        torch.cuda.empty_cache()
    result, cost = _cost(lambda: register(*pair, preset=preset, device=context.device, progress=False), context.device)
    floats = cost.bytes / 4 / pair[0].numel()
    return {"seconds": cost.seconds[0], "mib": cost.bytes / 2**20, "floats": floats, **shares(result.summary())}


def together(context: Context) -> Iterator[Row]:
    """One registration alone, twice, then two in two processes at once on the same device: the fields, and the time.

    As the order of sums varies, even two single runs differ; two at once must not differ much more.
    """
    case = next(cases_of(context), None)
    if case is None:
        raise RuntimeError(f"no cases in {context.cases}; run `make gpu-cases`")
    preset = preset_of("fast", context)
    torch.cuda.empty_cache()  # the other processes need the room
    folders = [Path(context.scratch) / "together" / name for name in ("alone", "alone again", "first of two", "second of two")]
    costs = []
    for folder in folders[:2]:
        costs.append(_in_process(case, folder, preset, context))
    with ThreadPoolExecutor() as pool:
        costs += pool.map(lambda out: _in_process(case, out, preset, context), folders[2:])
    fixed = nib.load(case / "fixed.nii.gz")
    fields = [read_field(folder / FORWARD, fixed) for folder in folders]
    p95 = [float(np.percentile(np.linalg.norm(field - fields[0], axis=-1), 95)) for field in fields]
    for k, (folder, cost) in enumerate(zip(folders, costs)):
        row: Row = {"what": folder.name, "seconds": cost.seconds[0], "mib": cost.bytes / 2**20}
        row |= {"p95_mm": p95[k]} if k else {}
        yield row | ({"check": p95[k] <= SAME_FIELD_MM + 2 * p95[1]} if k > 1 else {})
    yield {"what": "two at once, relative to one alone", "ratio": costs[2].seconds[0] / costs[1].seconds[0]}


def _in_process(case: Path, out: Path, preset: str, context: Context) -> Measured:
    """A registration in a fresh process.

    Raises:
        RuntimeError: when it fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    told = {"preset": preset, "seed": 0, "threads": 1}
    arguments = {"tool": "monai_locor", "case": str(case), "out": str(out), "options": told}
    limit = max(context.left() - 1, 1)
    problem = measure(Spec("_ours", "prepare", arguments, {"case": ""}, 0, 1, context.device, limit)).problem
    if problem:
        raise RuntimeError(problem)
    return Measured(**json.loads((out / COST).read_text(encoding="utf-8")))
