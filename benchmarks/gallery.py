# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures of the arena's cases before and after registration, as a page of the documentation with the figures of every tool.

A case of each kind is registered again to draw it; only cases whose licenses permit to publish pictures (`CREDITS`). The
figures of the other tools are those that the arena has stored.

    python benchmarks/gallery.py CASES --histology DATA/histology    # register, draw, write docs/gallery
    python benchmarks/gallery.py CASES --methods greedy --python PEERS/bin/python    # also draw the result of another tool
    python benchmarks/gallery.py                                     # the page only
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _arena_page import picture_name
from _arena_records import NOTHING, Runs, hash_of, kind_of, read_settings
from _arena_statistics import MEASURES, SPREADS
from _compare import name_of
from _score import FORWARD, read_field
from _tables import markdown
from arena import RECORDS, write_histology
from registration import Job, _pythons, about, attempt, nothing

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
METHODS = ("monai_locor fast",)
CREDITS = {  # case: heading, source and license of the images
    "brain_t2_t1_2mm": ("T1 to T2, one head", "Lesjak 2018 (doi 10.1007/s12021-017-9348-7), CC BY; T2 deformed"),
    "brain_flair_t1_1mm_bias": ("T1 to FLAIR, a head with a stroke", "neurolabusc/VolumeRenderingData, MIT; FLAIR deformed"),
    "head_ct_t1": ("T1 to CT", "Rorden 2012, neurolabusc/Clinical, BSD-2-Clause; CT deformed"),
    "head_t1_ct_thick": ("CT with slices of 6 mm to T1", "Rorden 2012, neurolabusc/Clinical, BSD-2-Clause; T1 deformed"),
    "histology_he_cd31": ("Two stains of a lung lesion", "Borda/dataset-histology-landmarks, BSD-3-Clause; luminance"),
    "clinical_visits_flair_t1": ("T1 to FLAIR of another visit", "Lesjak 2016, CC BY; nothing done to them"),
}
PIXELS, QUALITY = 1100, 72  # width and compression of a picture
WAIT_SECONDS = 3600.0  # of a registration
HEAD = """# Gallery

Registrations of the cases of the [arena](../../benchmarks/results/arena.md), drawn by `benchmarks/gallery.py`. Orange contours
are those of the fixed image. Look at them on the moving image before and after, and at the edges across the checkerboards.
The title has the error before and after, which is the first number of the table.

No tool was told anything but the two images. The first row of every table is the run in the picture, of {date}, monai-locor
{version} (commit {commit}). The others are runs of the arena on the same case, by other tools and by an earlier commit of this
one. Shown are cases whose licenses permit it; PET, SPECT and pairs of two subjects are in the arena only.
"""


def draw(case: Path, result: Path, path: Path, title: str) -> None:
    """Write the picture of a result.

    Args:
        case: folder of the case.
        result: folder with the forward field.
        path: WebP file.
        title: above the pictures.
    """
    import torch
    from PIL import Image

    from monai_locor.geometry import Grid
    from monai_locor.geometry.mapping import warped
    from monai_locor.io import read_image
    from monai_locor.report.pictures import before_after_figure

    fixed, moving = (read_image(case / f"{role}.nii.gz", role)[0] for role in ("fixed", "moving"))
    field = np.moveaxis(read_field(result / FORWARD, nib.load(case / "fixed.nii.gz")), -1, 0)
    shift = torch.from_numpy(np.ascontiguousarray(field)).float()
    before, after = (warped(moving, Grid.of(moving), where, Grid.of(fixed)) for where in (torch.zeros_like(shift), shift))
    figure = before_after_figure(fixed, before, after, title, shift)
    data = io.BytesIO()
    figure.canvas.print_figure(data, dpi=PIXELS / figure.get_figwidth(), facecolor=figure.get_facecolor(), format="png")
    Image.open(data).convert("RGB").save(path, quality=QUALITY, method=6)


def picture(case: str, method: tuple[str, str]) -> str:
    """File name of the picture of a case and a method."""
    return Path(picture_name(Path(case), method)).with_suffix(".webp").name


def register(settings: Mapping[str, Any], runs: Runs, options: argparse.Namespace) -> None:
    """Register and draw the cases that the folder has, one after the other."""
    machine = about(options)
    told = {key: machine[key] for key in ("date", "processor", "monai_locor", "commit", "source") if key in machine}
    for case in CREDITS:
        folder = options.folder / case
        if not (folder / "fixed.nii.gz").exists() or (options.cases and case not in options.cases):
            continue
        runs.add({"case": case, "tool": NOTHING, "preset": "", "seed": 0, "problem": "", **nothing(folder), **told})
        for method in options.methods:
            tool, _, preset = method.partition(" ")
            with tempfile.TemporaryDirectory() as out:
                run = attempt(Job(folder, preset, 0, tool), Path(out), options) | told
                if not run["problem"]:
                    measure = MEASURES[settings["kinds"][kind_of(settings, case)]["measure"]][0]
                    numbers = [f"{value:{measure.style}}" for value in (runs.nothing[case][measure.key], run[measure.key])]
                    draw(
                        folder, Path(out), options.gallery / picture(case, (tool, preset)), f"{method}: {' to '.join(numbers)}"
                    )
            runs.add(run)
            print(f"{case}, {method}: {run['problem'] or 'drawn'}", file=sys.stderr)


def page(settings: Mapping[str, Any], runs: Runs, stored: Runs) -> str:
    """The page.

    Args:
        settings: of the arena.
        runs: of the gallery.
        stored: of the arena, for the figures of the other tools.
    """
    own = [run for run in runs if run["tool"] != NOTHING and not run["problem"]]
    if not own:
        return HEAD.split("\n", 1)[0] + "\n\nNo runs yet.\n"
    last = max(own, key=lambda run: run["date"])
    told = {"date": last["date"], "version": last["monai_locor"], "commit": last.get("commit", "unknown")}
    sections = [_section(settings, case, runs, stored) for case in CREDITS if any(run["case"] == case for run in own)]
    return "\n".join([HEAD.format(**told), *sections])


def _section(settings: Mapping[str, Any], case: str, runs: Runs, stored: Runs) -> str:
    heading, credit = CREDITS[case]
    kind = settings["kinds"][kind_of(settings, case)]
    measure, spread = MEASURES[kind["measure"]][0], SPREADS[kind["measure"]]
    shown = [run for run in runs if run["case"] == case and run["tool"] != NOTHING and not run["problem"]]
    others = [run for run in stored if run["case"] == case and run["tool"] != NOTHING and run["seed"] == 0]
    lines = [[f"**`{name_of(_method(run))}`**, the picture", *_numbers(run, measure, spread), run["date"]] for run in shown]
    lines += [
        [f"`{name_of(_method(run))}`", *_numbers(run, measure, spread), run["date"]]
        for run in sorted(others, key=lambda run: run.get(measure.key, float("inf")))
    ]
    lines.append(["no registration", *_numbers(runs.nothing[case], measure, spread), ""])
    pictures = [f"![{heading}, {name_of(_method(run))}]({picture(case, _method(run))})" for run in shown]
    table = markdown(["method", measure.heading, spread.heading, "run of"], lines)
    return "\n\n".join([f"## {heading}", f"{kind['about']} Case `{case}`.", *pictures, table, f"Images: {credit}."]) + "\n"


def _method(run: Mapping[str, Any]) -> tuple[str, str]:
    return run["tool"], run["preset"]


def _numbers(run: Mapping[str, Any], *measures: Any) -> Iterator[str]:
    for measure in measures:
        yield f"{run[measure.key]:{measure.style}}" if measure.key in run else run["problem"] and "failed"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of cases; without it only the page is written")
    parser.add_argument("--histology", type=Path, metavar="DIR", help="stains and landmarks, to make this case in the folder")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD", help="tool, or tool and preset in quotes")
    parser.add_argument("--cases", nargs="+", choices=CREDITS, help="by default all that the folder has")
    parser.add_argument("--python", action="append", default=[], metavar="[TOOL=]PATH", help="as of registration.py")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="FILE", help="runs of the arena")
    parser.add_argument(
        "--gallery", type=Path, default=GALLERY, metavar="DIR", help="folder of the page (default: docs/gallery)"
    )
    options = parser.parse_args(arguments)
    if options.folder and not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder; name the folder of the cases")
    options.pythons = _pythons(options.python)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    settings = read_settings()
    options.threads, options.limit, options.device = settings["threads"], WAIT_SECONDS, "cpu"
    options.gallery.mkdir(parents=True, exist_ok=True)
    runs = Runs(options.gallery.absolute() / "runs.jsonl", hash_of(settings))
    if options.folder:
        if options.histology:
            write_histology(settings, options.histology, options.folder)
        register(settings, runs, options)
    text = page(settings, runs, Runs(options.records, hash_of(settings)))
    (options.gallery / "index.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
