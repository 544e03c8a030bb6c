# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Contribution of the parts of the measure: log or normalized form, learned or polynomial basis, derivative channel.

The paper's Table 2. Every variant is registered in a fresh process and scored as `registration.py` does it, with several seeds;
a run that fails counts as zero displacement. Prints Markdown tables: mean and standard deviation over the seeds for each case,
and in how many cases the learned basis is better than the polynomial one. `--json FILE` keeps the numbers of every run, from
which `--resume` goes on; `--plot FILE` draws them.

    python benchmarks/ablation.py CASES --seeds 0 1 2 --json ablation.json --resume --plot ablation.png
    python benchmarks/ablation.py CASES head knee --preset fast --derivatives none basis both --settings tuned.json
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _compare import MEASURES, Measure, mean_and_deviation, plus_minus, values
from _ours import OURS
from _plot_groups import groups
from _runs import Record
from _tables import markdown
from registration import Job, about, attempt, find_cases, nothing

from monai_locor import InputError
from monai_locor.registration import RegistrationConfig

FORMS, BASES, DERIVATIVES = ("log", "normalized"), ("learned", "polynomial"), ("none", "basis", "both")
WORDS = {"none": "no derivative", "basis": "derivative", "both": "derivative modeled"}


@dataclass(frozen=True)
class Variant:
    """One cell of the table."""

    form: str
    basis: str
    derivative: str

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"{self.form}-{self.basis}-{self.derivative}"

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """Settings for `register`."""
        own = {"form": self.form, "basis": self.basis, "derivative": self.derivative, "intersubject": "never"}
        return options.base | options.settings.get(self.name, {}) | own


def variants(options: argparse.Namespace) -> list[Variant]:
    """The selected variants in the order of the table."""
    return [Variant(*parts) for parts in itertools.product(options.forms, options.bases, options.derivatives)]


def spread(record: Mapping[str, Any], measure: Measure) -> dict[str, dict[str, dict[str, float]]]:
    """For each variant and case with the measure, mean and standard deviation over the seeds."""
    found = values(record["runs"], record["nothing"], measure)
    return {name: {case: mean_and_deviation(numbers) for case, numbers in cases.items()} for (_, name), cases in found.items()}


def table(record: Mapping[str, Any], measure: Measure, chosen: Sequence[Variant]) -> str:
    """Markdown: a line for each variant, a column for each case, and the mean over the cases."""
    found = spread(record, measure)
    cases = list(dict.fromkeys(case for row in found.values() for case in row))
    lines = []
    for variant in chosen:
        row = found.get(variant.name, {})
        cells = [plus_minus(row[case], measure.style) if case in row else "" for case in cases]
        complete = [row[case]["mean"] for case in cases if case in row]
        over = format(statistics.fmean(complete), measure.style) if len(complete) == len(cases) > 1 else ""
        lines.append([variant.form, variant.basis, WORDS[variant.derivative], *cells, over])
    return markdown([f"{measure.heading}, mean ± SD over seeds: form", "basis", "channel", *cases, "mean of cases"], lines)


def figures(record: Mapping[str, Any], chosen: Sequence[Variant]) -> list[dict[str, Any]]:
    """The tables' numbers for `current.py`: a row for each variant and case, and one for the mean of the cases.

    Rows name the ``problem`` of a failed run.
    """
    problems = {(run["preset"], run["case"]): run["problem"] for run in record["runs"] if run["problem"]}
    rows: dict[tuple[Variant, str], dict[str, Any]] = {}
    for measure, deviation in zip(MEASURES, ("tre_sd_mm", "dice_sd"), strict=True):
        found = spread(record, measure)
        for variant in chosen:
            cases = dict(found.get(variant.name, {}))
            if len(cases) > 1:
                cases["mean"] = {"mean": statistics.fmean(row["mean"] for row in cases.values())}
            for case, row in cases.items():
                head = {"case": case, **asdict(variant), "problem": problems.get((variant.name, case), "")}
                numbers = {measure.key: row["mean"]} | ({deviation: row["deviation"]} if "deviation" in row else {})
                rows[variant, case] = rows.get((variant, case), head) | numbers
    return list(rows.values())


def learned_wins(record: Mapping[str, Any], measure: Measure, chosen: Sequence[Variant]) -> list[tuple[str, str, int, int]]:
    """For each form and channel, the number of cases where the learned basis is better, and of all cases."""
    found = spread(record, measure)
    rows = []
    for form, derivative in dict.fromkeys((v.form, v.derivative) for v in chosen):
        learned, fixed = (found.get(Variant(form, basis, derivative).name, {}) for basis in BASES)
        common = [case for case in learned if case in fixed]
        wins = sum(measure.better(learned[case]["mean"], fixed[case]["mean"]) for case in common)
        if common:
            rows.append((form, derivative, wins, len(common)))
    return rows


def jobs(options: argparse.Namespace, folder: Path) -> Iterator[Job]:
    """Variants alternate, so that other load on the machine affects all of them."""
    chosen = variants(options)
    for variant in chosen:
        (folder / f"{variant.name}.json").write_text(json.dumps(variant.settings(options)), encoding="utf-8")
    for case in options.cases:
        for seed in options.seeds:
            for variant in chosen:
                yield Job(case, str(folder / f"{variant.name}.json"), seed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders, `base` the settings of the preset, `settings` a mapping."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="cases as in registration.py")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, by default all")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES, metavar="BASIS")
    parser.add_argument("--derivatives", nargs="+", default=["none", "basis"], choices=DERIVATIVES, metavar="NAME")
    parser.add_argument("--preset", default="default", help="name or JSON file of the base settings")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="JSON with further settings of variants, by name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="time limit of a run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument("--resume", action="store_true", help="resume from the runs in the file of --json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot of all numbers")
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume needs --json")
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    find_cases(parser, options)
    _read_settings(parser, options)
    return options


def _read_settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse invalid settings before hours of registrations."""
    try:
        options.base = RegistrationConfig.of(options.preset).to_dict()
        options.settings = json.loads(options.settings.read_text(encoding="utf-8")) if options.settings else {}
        known = [variant.name for variant in variants(options)]
        unknown = [name for name in options.settings if name not in known]
        if unknown:
            parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(known)}")
        for variant in variants(options):
            RegistrationConfig.of(variant.settings(options))
    except (InputError, OSError, ValueError) as error:
        parser.error(str(error))


def report(record: Record, options: argparse.Namespace) -> None:
    """Print the tables and draw the picture."""
    content, chosen = record.content, variants(options)
    print(", ".join(f"{name} {value}" for name, value in content["machine"].items()) + "\n")
    panels: dict[str, dict[str, list[float]]] = {}
    for measure in MEASURES:
        if not spread(content, measure):
            continue
        print(table(content, measure, chosen) + "\n")
        for form, derivative, wins, cases in learned_wins(content, measure, chosen):
            print(f"{measure.heading}, {form}, {WORDS[derivative]}: learned basis better in {wins} of {cases} cases")
        for (_, name), numbers in values(content["runs"], content["nothing"], measure).items():
            for case, values_of_case in numbers.items():
                panels.setdefault(f"{case}: {measure.heading}", {})[name] = values_of_case
    failed = [run for run in content["runs"] if run["problem"]]
    print("\n".join(f"failed: {run['case']} {run['preset']} seed {run['seed']}: {run['problem']}" for run in failed))
    if options.plot:
        groups(panels, options.plot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    told = {v.name: v.settings(options) for v in variants(options)} | {"threads": options.threads, "device": options.device}
    try:
        head = {"machine": about(options), "settings": told, "nothing": {}}
        record = Record(options.json, head, options.resume, lambda content: {"figures": figures(content, variants(options))})
    except ValueError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as temporary:
        for job in jobs(options, Path(temporary)):
            if job.case.name not in record.content["nothing"]:
                record.content["nothing"][job.case.name] = nothing(job.case)
            if not record.has(case=job.case.name, tool=OURS, preset=job.label, seed=job.seed):
                record.add(attempt(job, Path(temporary) / job.folder, options))
                run = record.runs[-1]
                told_of = run["problem"] or f"TRE {run.get('tre_mm', '')} Dice {run.get('dice', '')}"
                print(run["case"], run["preset"], run["seed"], told_of, file=sys.stderr)
    record.write()
    report(record, options)


if __name__ == "__main__":
    main()
