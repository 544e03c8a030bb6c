# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``report``: the page of a registration that was written before."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from monai_locor.cli.registration_outputs import OUTPUTS
from monai_locor.geometry import Grid
from monai_locor.io import read_image
from monai_locor.metrics import jacobian_statistics
from monai_locor.quality import Reason, Verdict
from monai_locor.registration import RegistrationConfig, RegistrationResult
from monai_locor.registration.described import described_arguments
from monai_locor.registration.manifest import sha256
from monai_locor.tensors import plain

from .files import SHAPE, SHIFT


@pytest.fixture
def stored(folder):
    """A result and the folder that it was written to."""
    images = {role: read_image(folder / f"{role}.nii.gz", role)[0] for role in ("fixed", "moving")}
    grid = Grid.of(images["fixed"])
    field = torch.tensor(SHIFT).reshape(3, 1, 1, 1).expand(3, *SHAPE).contiguous()
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    files = {role: str(folder / f"{role}.nii.gz") for role in images}
    result = RegistrationResult(
        affine=matrix,
        forward_mm=field,
        inverse_mm=-field,
        warped_moving=images["fixed"],
        warped_fixed=images["moving"],
        fixed_grid=grid,
        moving_grid=grid,
        history=[{"factor": 2, "spacing": None, "loss": [1.0, 0.5], "bending": [0.0, 0.0], "seconds": 0.1}],
        jacobian=jacobian_statistics(field, grid),
        config=RegistrationConfig(num_basis=3),
        seed=4,
        seconds=1.5,
        inputs=files,
        verdict=Verdict("WARN", (Reason("folding", "WARN", "some of it folds", "look"),)),
        warnings=("a note", "a doubt"),
        doubts=("a doubt",),
        arguments=described_arguments({**files, "seed": 4}),
    )
    (folder / "out").mkdir()
    for name in ("forward", "inverse"):
        OUTPUTS[name].write(result, folder / "out" / OUTPUTS[name].name)
    (folder / "out" / "run.json").write_text(json.dumps(result.summary()))
    return result, folder / "out"


def test_a_result_is_read_back(stored):
    result, out = stored
    found = RegistrationResult.load(out)
    for name in ("forward_mm", "inverse_mm"):
        torch.testing.assert_close(getattr(found, name), getattr(result, name))
    assert json.loads(json.dumps(found.summary())) == json.loads(json.dumps(result.summary()))
    assert found.config == result.config and found.verdict == result.verdict
    assert found.warnings == ("a note", "a doubt") and found.doubts == ("a doubt",)
    inner = slice(0, SHAPE[0] - 2)
    torch.testing.assert_close(plain(found.warped_moving)[:, inner], 2 - plain(result.warped_moving)[:, inner])


def test_the_page(run, stored, monkeypatch):
    _, out = stored
    seen = {}

    def write_report(path, found, **masks):
        seen.update(result=found, **masks)
        path.write_text("page")

    monkeypatch.setattr("monai_locor.report.html.write_report", write_report)
    answer = run("report", out)
    assert answer.code == 0 and "  WARN folding: some of it folds; look\n  warned: a note\n" in answer.out
    assert f"report: {out / 'report.html'}" in answer.out and (out / "report.html").read_text() == "page"
    assert seen["result"].seed == 4 and seen["fixed_mask"] is None
    found = run("report", out, "-o", out / "deep" / "page.html", "--json").json
    assert found["verdict"]["status"] == "WARN" and (out / "deep" / "page.html").exists()


def test_masks_and_labels_of_the_run_are_shown(run, refused, stored, folder, monkeypatch):
    _, out = stored
    seen = {}

    def write_report(path, found, **shown):
        seen.update(
            {name: [str(p) for p in ([value] if isinstance(value, str) else value or [])] for name, value in shown.items()}
        )
        path.write_text("page")

    monkeypatch.setattr("monai_locor.report.html.write_report", write_report)
    content = json.loads((out / "run.json").read_text())
    maps = {role: folder / f"{role}_labels.nii.gz" for role in ("fixed", "moving")}
    content["carried"] = [
        {"kind": "labels", "space": role, "input": str(path), "sha256": sha256(path)} for role, path in maps.items()
    ]
    content["arguments"]["fixed_mask"] = {"path": str(maps["fixed"]), "sha256": sha256(maps["fixed"])}
    (out / "run.json").write_text(json.dumps(content))
    assert run("report", out, "--force").err == ""
    assert seen == {"fixed_mask": [str(maps["fixed"])], "moving_mask": []} | {
        f"{role}_labels": [str(path)] for role, path in maps.items()
    }
    run("report", out, "--force", "--fixed-labels", maps["moving"])
    assert seen["fixed_labels"] == seen["moving_labels"] == [str(maps["moving"])]
    maps["fixed"].write_bytes(maps["moving"].read_bytes())
    maps["moving"].unlink()
    answer = run("report", out, "--force")
    assert seen["fixed_labels"] == seen["moving_labels"] == seen["fixed_mask"] == []
    assert "fixed mask" in answer.err and "has changed" in answer.err and "no longer exists" in answer.err
    assert "none.nii.gz: no such file" in refused("report", out, "--force", "--moving-labels", folder / "none.nii.gz")


def test_what_is_refused(refused, run, stored, folder, monkeypatch):
    _, out = stored
    (out / "page.html").touch()
    (folder / "empty").mkdir()
    assert "page.html: already exists" in refused("report", out, "-o", out / "page.html")
    assert "none: no such folder" in refused("report", folder / "none")
    assert "run.json: no such file" in refused("report", folder / "empty")
    (folder / "moving.nii.gz").rename(folder / "moved.nii.gz")
    assert "moving.nii.gz, which is not there any more; give it again" in refused("report", out)
    assert "forward_field.nii.gz" not in refused("report", out, "--moving", folder / "none.nii.gz")
    for name in ("forward", "inverse"):
        (out / f"{name}_field.nii.gz").unlink()
    assert "holds no transform" in refused("report", out, "--moving", folder / "moved.nii.gz")


def test_a_result_as_a_transform(stored):
    result, _ = stored
    transform = result.transform
    points = torch.tensor([[5.0, 6, 7], [500, 500, 500]], dtype=torch.float64)
    torch.testing.assert_close(transform.points(points) - points, torch.tensor([SHIFT, SHIFT], dtype=torch.float64))
    torch.testing.assert_close(transform.inverse().points(points[:1]) - points[:1], -torch.tensor([SHIFT], dtype=torch.float64))
    moved = dataclasses.replace(result, forward_mm=result.forward_mm + 1)
    torch.testing.assert_close(moved.transform.displacement(result.fixed_grid), moved.forward_mm)


@pytest.mark.slow
def test_a_real_page(run, stored):
    pytest.importorskip("matplotlib")
    result, out = stored
    content = {**result.summary(), "verdict": None}  # the page judges itself
    (out / "run.json").write_text(json.dumps(content))
    answer = run("report", out)
    assert answer.code == 0, answer.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!") and "moving.nii.gz registered to fixed.nii.gz" in page
