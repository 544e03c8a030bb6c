# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The package's own registration in a separate process, with any measure, and its cost."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from _measure import Measured, _reset_peak, _status

from monai_locor.registration.similarity import SIMILARITIES

COST = "cost.json"
OURS = "monai_locor"
TINY = {"stages": [{"factor": 1, "iterations": 1}, {"factor": 1, "iterations": 1, "spacing": 8}]}


def ours(case: Path, out: Path, options: Mapping[str, Any], similarity: str | None = None) -> Measured:
    """`register`, after a tiny pair that excludes imports and thread-pool start from the measurement."""
    import torch

    from monai_locor import register

    register(*torch.rand(2, 1, 12, 12, 12), preset=TINY, similarity=similarity, device=options["device"], progress=False)
    arguments = {"similarity": similarity} | {name: options[name] for name in ("preset", "seed", "device")}
    if options.get("masks"):
        arguments |= {f"{role}_mask": case / f"{role}_mask.nii.gz" for role in ("fixed", "moving")}
    names = (case / f"{role}.nii.gz" for role in ("fixed", "moving"))
    result, cost = _cost(lambda: register(*names, **arguments, progress=False), options["device"])
    if options.get("save", True):
        result.save(out)
    return cost


# A tool with presets, of this interpreter, runs in a process of its own. It gets the folder of the case (of which it may read
# the two images only, with the option masks also their masks), the folder for its result and the options preset, seed, threads
# and device; it leaves the fields there, as `_score.py` reads them, and returns the cost of the registration itself. It raises
# what goes wrong; the last line of that is the row. All other tools are in `_peers.py`.
TOOLS: dict[str, Callable[[Path, Path, Mapping[str, Any]], Measured]] = {OURS: ours}
TOOLS |= {f"ours:{name}": partial(ours, similarity=name) for name in SIMILARITIES if name != "locor"}


def _cost(function: Callable[[], Any], device: str) -> tuple[Any, Measured]:
    """Result of a function, and its time and additional memory as in `_measure.py`."""
    import torch

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
    else:
        known = _reset_peak()
        base = _status("VmRSS")
    start, processor_start = time.perf_counter(), time.process_time()
    result = function()
    if cuda:
        torch.cuda.synchronize(device)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    if cuda:
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = _status("VmHWM") if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, Measured((seconds,), (processor_seconds,), peak - base)


def prepare(device: str, tool: str, case: str, out: str, options: Mapping[str, Any]) -> Callable[[], None]:
    """Called by `_measure.py` in the fresh process; without a case (its tiny instance) it does nothing."""

    def step() -> None:
        if case:
            cost = TOOLS[tool](Path(case), Path(out), {**options, "device": device})
            (Path(out) / COST).write_text(json.dumps(asdict(cost)), encoding="utf-8")

    return step
