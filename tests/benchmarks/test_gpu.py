# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script for a machine with a GPU, as far as one without can try it: cases, worker, time, tables, and tiny sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from monai_locor.registration.config import PRESETS

from .cases import FIXED, SHAPE, measure_here, save, save_field, scripts, write_blob_case

MACHINE = {"device": "cpu", "date": "2026-01-01"}
PARTS = """
import time
def three(context):
    for k in range(3):
        yield {"k": k, "left": context.left() > 0, "device": context.device}
def fails(context):
    yield {"k": 0}
    print("not an answer")
    raise ValueError("too bad")
def hangs(context):
    yield {"k": 0}
    time.sleep(600)
def dies(context):
    yield {"k": 0}
    import os
    os._exit(7)
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, "gpu", "gpu_cases", "_gpu_parts", "_gpu_setup", "_gpu_worker", "_runs", "_score")


def context_of(modules: SimpleNamespace, seconds: float):
    return modules.gpu_worker.Context("cpu", True, seconds, "", [], "")


class TestCases:
    @pytest.fixture
    def folders(self, modules, tmp_path) -> tuple[Path, Path, np.ndarray]:
        """A case with a smooth truth, as it is and packed and unpacked."""
        case = write_blob_case(tmp_path / "case")
        x = np.indices(SHAPE).transpose(1, 2, 3, 0) / 10
        truth = 9 * np.sin(x @ np.array([[1, 2, 0.5], [0.3, 1, 1], [2, 0.1, 1]])) + 11
        save_field(case / "truth.nii.gz", truth, FIXED)
        modules.gpu_cases.pack(case, tmp_path / "packed" / "case")
        assert modules.gpu_cases.packed_cases(tmp_path / "packed") == [tmp_path / "packed" / "case"]
        return case, modules.gpu_cases.unpack(tmp_path / "packed" / "case", tmp_path / "unpacked"), truth

    @pytest.mark.parametrize("amount", [0.0, 0.01, 1.0, 5.0])
    def test_packing_changes_no_score(self, modules, folders, tmp_path, amount):
        *cases, truth = folders
        field = truth + amount * np.random.default_rng(0).normal(size=truth.shape)
        scores = []
        for case in cases:
            save_field(tmp_path / "result" / "forward_field.nii.gz", field, FIXED)
            scores.append(modules.score.score(case, tmp_path / "result"))
        assert set(scores[0]) == set(scores[1]) >= {"tre_mm", "tre_before_mm", "tre_p95_mm", "folding_voxels"}
        for key, value in scores[0].items():
            # the error of a perfect field is rounding alone, less than 0.001 mm on average
            assert abs(value - scores[1][key]) < (0.0018 if (key, amount) == ("tre_p95_mm", 0) else 0.001), key

    def test_images_change_by_less_than_their_noise(self, modules, folders, tmp_path):
        read = modules.score.nib.load
        for role in ("fixed", "moving"):
            before, after = (np.asarray(read(case / f"{role}.nii.gz").dataobj, dtype=float) for case in folders[:2])
            assert np.abs(before - after).max() <= np.ptp(before) / 4095
            assert np.array_equal(*(read(case / f"{role}.nii.gz").affine for case in folders[:2]))
        whole = np.arange(24).reshape(2, 3, 4) * 100 - 300
        save(tmp_path / "a.nii.gz", whole.astype(np.float32), np.eye(4))
        modules.gpu_cases.store_image(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
        assert np.array_equal(np.asarray(read(tmp_path / "b.nii.gz").dataobj), whole)

    def test_a_truth_that_does_not_fit_is_refused(self, modules, tmp_path):
        case = write_blob_case(tmp_path / "case")
        save_field(case / "truth.nii.gz", np.array([0.0, 70.0, 0.0]), FIXED)
        with pytest.raises(ValueError, match=r"70.0 mm do not fit"):
            modules.gpu_cases.pack(case, tmp_path / "packed")

    @pytest.mark.slow  # makes a case of real images
    def test_a_shared_case_fits(self, modules, shared, tmp_path, monkeypatch):
        """All five take less than 20 MiB; the script refuses other sizes and contents and leaves existing files unchanged."""
        folders = [str(shared / "bench"), str(shared / "data"), str(tmp_path / "cases")]
        modules.gpu_cases.main(["pack", *folders, "--cases", "brain_t2_t1_2mm"])
        assert [case.name for case in modules.gpu_cases.packed_cases(tmp_path / "cases")] == ["brain_t2_t1_2mm"]
        assert modules.gpu_cases.size_of(tmp_path) < 2 * 2**20
        monkeypatch.setattr(modules.gpu_cases, "MOST", 1000)
        with pytest.raises(SystemExit, match="more than"):
            modules.gpu_cases.main(["pack", *folders, "--cases", "brain_t2_t1_2mm"])
        assert (tmp_path / "cases" / "brain_t2_t1_2mm" / "truth.npz").is_file()


class TestWorker:
    @pytest.fixture
    def worker(self, modules, tmp_path):
        (tmp_path / "some_parts.py").write_text(PARTS)
        made = modules.gpu_worker.Worker(os.environ | {"PYTHONPATH": str(tmp_path)}, tmp_path / "log")
        yield made
        made.stop()

    def test_results_are_kept_after_any_failure(self, modules, worker, tmp_path):
        problems, rows, slack = {}, {}, None
        for name, seconds in (("three", 60), ("fails", 60), ("three", 60), ("dies", 60), ("hangs", 3), ("three", 60)):
            rows[name] = []
            start = time.monotonic()
            problems[name] = worker.run(f"some_parts:{name}", context_of(modules, seconds), rows[name].append)
            took = time.monotonic() - start
            slack = 5 + 2 * took if slack is None else slack  # the start of a process on this machine, however busy it is
            assert took < seconds + slack
        assert [row["k"] for row in rows.pop("three")] == [0, 1, 2]
        assert all(found == [{"k": 0}] for found in rows.values())
        assert problems == {
            "three": "",
            "fails": "ValueError: too bad",
            "dies": "the process ended with status 7",
            "hangs": "stopped after 3 s",
        }
        log = (tmp_path / "log").read_text()
        assert "not an answer" in log and "ValueError: too bad" in log

    def test_a_failed_row_names_its_error_unless_the_device_is_lost(self, modules):
        def call(message):
            raise RuntimeError(message)

        found = modules.gpu_worker.guarded({"what": "x"}, lambda: call("no\nkernel"))
        assert found == {"what": "x", "problem": "RuntimeError: no kernel", "check": False}
        with pytest.raises(RuntimeError, match="illegal"):
            modules.gpu_worker.guarded({}, lambda: call("CUDA error: an illegal memory access was encountered"))


class TestSetup:
    def wheel(self, folder: Path, name: str, needs: str) -> None:
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
            info = f"{name}-1.0.dist-info"
            file.writestr(f"{name}.py", "here = True")
            file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {needs}\n")
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")

    @pytest.mark.slow
    def test_missing_packages_come_from_the_wheels(self, modules, tmp_path, monkeypatch):
        setup = modules.gpu_setup
        monkeypatch.setattr(setup, "NEEDED", ("numpy", "made_up_package"))
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(RuntimeError, match=r"made_up_package not installed.*make gpu-wheels"):
            setup.install(tmp_path / "wheels", tmp_path / "site")
        self.wheel(tmp_path / "wheels", "made_up_package", "numpy<1")
        said = setup.install(tmp_path / "wheels", tmp_path / "site")
        assert setup.missing() == [] and (tmp_path / "site" / "made_up_package.py").is_file()
        assert len(said) == 1 and said[0].startswith("made_up_package needs numpy<1, here is ")
        assert str(tmp_path / "site") in setup.environment(tmp_path / "site")["PYTHONPATH"]

    def test_the_source_hash_differs_between_states_of_the_package(self, modules, tmp_path):
        hashes = set()
        for text in ("a", "b", "a"):
            (tmp_path / "a.py").write_text(text)
            hashes.add(modules.runs.source_hash(tmp_path))
        assert len(hashes) == 2 and all(len(value) == 12 for value in hashes)
        reference = tmp_path / "reference.json"
        reference.write_text(json.dumps({"machine": {"commit": "abc", "source": min(hashes)}}))
        assert modules.gpu.stale([reference], min(hashes)) == ""
        assert "of commit abc" in modules.gpu.stale([reference], max(hashes))
        assert "not there" in modules.gpu.stale([tmp_path / "none.json"], "")


class TestReport:
    def test_a_table_shows_all_rows(self, modules):
        parts = {part.name: part for part in modules.gpu_parts.PARTS}
        rows = [
            {"case": "a", "preset": "fast", "seconds": 1.234, "stages_s": [0.5, 0.25], "tre_mm": 0.4567, "check": True},
            {"case": "b", "preset": "fast", "problem": "out of memory", "check": False},
        ]
        lines = modules.gpu_parts.table(parts["cases"], rows).splitlines()
        assert lines[0] == "| case | preset | seconds | stages | TRE, mm |  | problem |"
        assert lines[2] == "| a | fast | 1.23 | 0.50, 0.25 | 0.457 | PASS |  |"
        assert lines[3] == "| b | fast |  |  |  | FAIL | out of memory |"

    def test_only_failed_checks_are_listed(self, modules):
        part = next(part for part in modules.gpu_parts.PARTS if part.only_failures)
        rows = [{"what": f"w{k}", "where": "", "check": True} for k in range(5)]
        assert modules.gpu_parts.table(part, rows).strip() == "5 of 5 without a fault."
        text = modules.gpu_parts.table(part, [*rows, {"what": "bad", "where": "gram.py:7", "check": False}])
        assert text.startswith("5 of 6") and "| bad | gram.py:7 | FAIL |" in text and "w3" not in text

    def test_failures(self, modules):
        found = [
            {"rows": [{"check": True}, {"check": False}, {}], "problem": ""},
            {"rows": [{"problem": "no time left"}], "problem": ""},
            {"rows": [], "problem": "stopped after 3 s"},
        ]
        assert modules.gpu_parts.counts(found) == {"passed": 1, "failed": 2}

    def test_beside_the_cpu(self, monkeypatch):
        compared = scripts(monkeypatch, "_gpu_registrations").gpu_registrations.compared
        known = [{"tre_mm": error, "tre_before_mm": 10.0} for error in (0.5, 0.512)]
        for error, fits in ((0.489, False), (0.491, True), (0.506, True), (0.521, True), (0.523, False)):
            found = compared({"tre_mm": error, "tre_before_mm": 10.0}, known)
            assert found["check"] == fits and found["cpu_spread_mm"] == pytest.approx(0.012)
            assert found["difference_mm"] == pytest.approx(error - 0.5)
        assert compared({"tre_mm": 0.509, "tre_before_mm": 10.0}, known[:1])["check"]
        assert not compared({"tre_mm": 0.512, "tre_before_mm": 10.0}, known[:1])["check"]
        other = compared({"tre_mm": 0.5, "tre_before_mm": 10.1}, known)
        assert not other["check"] and "another case" in other["problem"]
        assert compared({"tre_mm": 0.5, "tre_before_mm": 10.0}, []) == {}


class TestChecks:
    @pytest.fixture
    def checks(self, monkeypatch):
        found = scripts(monkeypatch, "_gpu_checks").gpu_checks
        monkeypatch.setattr(found, "no_waits", lambda device: contextlib.nullcontext())
        return found

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("", {"where": "", "check": True}),
            ("called a synchronizing CUDA operation", {"where": "gram.py:3", "check": False}),
            ("no kernel", {"where": "", "check": False, "problem": "RuntimeError: no kernel"}),
        ],
    )
    def test_the_line_that_waits_is_named(self, modules, checks, message, expected):
        """The first call may wait: buffers are made in it."""
        code = "def call():\n    global calls\n    if calls and message: raise RuntimeError(message)\n    calls += 1"
        space: dict = {"calls": 0, "message": message}
        exec(compile(code, "/there/monai_locor/losses/gram.py", "exec"), space)
        context = modules.gpu_worker.Context("cuda", True, 60, "", [], "")
        assert checks._checked("step", lambda: space["call"], context) == {"what": "step"} | expected

    def test_results_of_pytest(self, checks, tmp_path):
        (tmp_path / "test_x.py").write_text(
            "import pytest\n"
            "def test_good(): pass\n"
            "def test_bad(): assert 0\n"
            "@pytest.fixture\ndef broken(): raise ValueError\n"
            "def test_error(broken): pass\n"
            "@pytest.mark.skip\ndef test_skipped(): pass\n"
        )
        report = tmp_path / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        subprocess.run([*command, f"--junitxml={report}", str(tmp_path)], capture_output=True, check=False, cwd=tmp_path)
        found = checks.summary(report, "cuda")
        assert {key: found[key] for key in ("passed", "failed", "skipped", "check")} == {
            **{"passed": 1, "failed": 2, "skipped": 1},
            "check": False,
        }
        assert sorted(name.split("::")[-1] for name in found["which"]) == ["test_bad", "test_error"]


class TestTime:
    def test_time_left_by_a_part_goes_to_the_next_and_the_last_is_skipped(self, modules, tmp_path, monkeypatch):
        gpu, part = modules.gpu, modules.gpu_parts.Part
        parts = [part(name, name, "", seconds, [("k", "k", "d")]) for name, seconds in (("a", 10), ("b", 10), ("c", 10))]
        clock, told = [100.0], {}

        def run(call, context, row):
            name = "abc"[len(told)]
            told[name] = context.seconds
            row({"k": 1})
            clock[0] += {"a": 2.0, "b": 27.0}[name]
            return ""

        monkeypatch.setattr(gpu.Worker, "run", lambda self, *arguments: run(*arguments))
        monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
        results = gpu.Results(tmp_path, MACHINE)
        options = SimpleNamespace(device="cpu", smoke=True, cases="", reference=[], site=tmp_path)
        gpu.go_through(parts, options, results, 130.0, "")
        assert told == {"a": 10.0, "b": 18.0}  # what a left is added, and c comes too late
        content = json.loads(results.path.read_text())["parts"]
        assert content["c"]["skipped"] and not content["c"]["rows"] and content["b"]["rows"] == [{"k": 1}]

    def test_the_files_are_written_after_every_row(self, modules, tmp_path, monkeypatch):
        gpu, parts = modules.gpu, modules.gpu_parts.PARTS[:1]
        seen = []

        def run(call, context, row):
            for k in range(2):
                row({"passed": k, "failed": 0, "skipped": 0, "seconds": 1.0, "which": []})
                seen.append((tmp_path / "cpu-2026-01-01.md").read_text().count("\n| "))
            return "stopped after 3 s"

        monkeypatch.setattr(gpu.Worker, "run", lambda self, *arguments: run(*arguments))
        results = gpu.Results(tmp_path, MACHINE)
        options = SimpleNamespace(device="cpu", smoke=True, cases="", reference=[], site=tmp_path)
        gpu.go_through(parts, options, results, gpu.time.monotonic() + 100, "")
        assert seen == [3, 4] and "**stopped after 3 s**" in results.path.with_suffix(".md").read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu-2026-01-01.json", "cpu-2026-01-01.md"]

    def test_an_unknown_part_ends_in_one_line(self, modules):
        with pytest.raises(SystemExit, match=r"no part nonsense; known are tests, agreement"):
            modules.gpu.chosen(["nonsense"])
        assert sum(part.seconds for part in modules.gpu_parts.PARTS) == 540


@pytest.mark.slow
def test_the_whole_script_at_tiny_sizes(modules, tmp_path, monkeypatch, capsys):
    """The first part in the worker's process; the others in this one, which has imported everything."""
    measure_here(monkeypatch, importlib.import_module("_gpu_registrations"))
    monkeypatch.setattr("_gpu_registrations.PRESETS", ("fast",))
    for name, few in (("PRESETS", {"draft": PRESETS["draft"]}), ("SIMILARITIES", ("locor", "mutual_information"))):
        monkeypatch.setattr(importlib.import_module("_gpu_checks"), name, few)
    monkeypatch.setattr("_gpu_registrations.ThreadPoolExecutor", lambda: ThreadPoolExecutor(1))  # one after the other

    class HereWorker(modules.gpu_worker.Worker):
        def run(self, call, context, row):
            if call == modules.gpu_parts.PARTS[0].call:
                return super().run(call, context, row)
            for found in modules.gpu_worker._rows({"call": call, "context": dataclasses.asdict(context)}):
                row(json.loads(json.dumps(found)))
            return ""

    monkeypatch.setattr(modules.gpu, "Worker", HereWorker)
    with pytest.raises(SystemExit) as ended:
        modules.gpu.main(["--device", "cpu", "--smoke", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    (path,) = tmp_path.glob("cpu-*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert list(content["parts"]) == [
        *("tests", "agreement", "kernels", "waits", "cases", "loss", "training", "together", "large", "launches"),
    ]
    for name, part in content["parts"].items():
        assert part["rows"] and not part["problem"] and not part["skipped"], name
        assert not any(row.get("problem") for row in part["rows"]), name
    assert out.startswith("# On a GPU") and path.with_suffix(".md").read_text(encoding="utf-8") == out[:-1]
    assert {"date", "torch", "commit", "source"} <= set(content["machine"])
