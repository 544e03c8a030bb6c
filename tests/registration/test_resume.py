# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A registration whose process was killed continues from the end of its last stage."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.differences import first_difference
from monai_locor.registration import Stage
from monai_locor.registration import resume as resume_module
from monai_locor.run_log import doubt

from ..phantoms import PLANE, pair

STAGES = (Stage(4, 3), Stage(4, 3, spacing=16, learning_rate=0.2), Stage(2, 3, spacing=8, learning_rate=0.2))
CONFIG = RegistrationConfig(stages=STAGES, multistart="never", intersubject="never")


class Kill(BaseException):
    """Ends a run as a kill does: nothing catches it."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Register the phantom with states in a folder; ``stop`` kills it before a stage. Returns result and number of stages."""
    fixed, moving, _ = pair(PLANE, PLANE)
    run_stage = resume_module.run_stage

    def call(stop: int | None = None, **options):
        done = []

        def counted(engine, stage, update):
            if len(done) == stop:
                raise Kill
            done.append(stage)
            run_stage(engine, stage, update)
            doubt(resume_module.logger, "odd stage %d", len(engine.history))

        monkeypatch.setattr(resume_module, "run_stage", counted)
        given = {"preset": CONFIG, "resume": tmp_path / "state", **options}
        return register(fixed, moving, device="cpu", progress=False, **given), len(done)

    return call


def plain_history(result) -> list[dict]:
    return [{name: value for name, value in stage.items() if name != "seconds"} for stage in result.history]


@pytest.mark.parametrize(("multistart", "stops"), [("never", [1]), pytest.param("always", [2], marks=pytest.mark.slow)])
def test_the_result_is_that_of_an_uninterrupted_run(run, tmp_path, multistart, stops):
    config = dataclasses.replace(CONFIG, multistart=multistart)
    whole, number = run(resume=tmp_path / "other", preset=config)
    for stop in stops:
        for path in (tmp_path / "state").glob("*"):
            path.unlink()
        with pytest.raises(Kill):
            run(stop, preset=config)
        found, rest = run(preset=config)
        assert rest == number - stop
        for name in ("forward_mm", "inverse_mm", "warped_moving", "warped_fixed"):
            assert torch.equal(getattr(found, name), getattr(whole, name))
        np.testing.assert_array_equal(found.affine, whole.affine)
        assert plain_history(found) == plain_history(whole) and found.verdict == whole.verdict
        assert found.warnings == whole.warnings and found.doubts == whole.doubts and len(found.doubts) >= 3


def test_states_of_another_registration_are_refused(run, monkeypatch):
    with pytest.raises(Kill):
        run(1)
    with pytest.raises(InputError, match=r"is the state of another registration .seed 0 then, 1 now"):
        run(seed=1)
    with pytest.raises(InputError, match=r"bending_weight .* then, 3 now"):
        run(preset=RegistrationConfig.of({**CONFIG.to_dict(), "bending_weight": 3}))
    monkeypatch.setattr(resume_module, "versions", lambda: {"monai_locor": "0.0"})
    with pytest.raises(InputError, match="another registration"):
        run()


def test_damaged_states_are_refused(run, tmp_path):
    with pytest.raises(Kill):
        run(1)
    (path,) = (tmp_path / "state").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"stage_000.npz: is damaged .*; delete "):
        run()
    with path.open("wb") as file:
        np.savez(file, text=np.array(json.dumps({"format": "other"})))
    with pytest.raises(InputError, match="has format 'other'"):
        run()
    with path.open("wb") as file:
        np.savez(file, text=np.array({"format": "an object"}, dtype=object))
    with pytest.raises(InputError, match="is damaged"):  # pickle is not read
        run()


def test_code_has_no_state(run):
    with pytest.raises(InputError, match="not possible with similarity"):
        run(similarity=lambda dims: torch.nn.MSELoss())


def test_differences_are_named():
    assert first_difference({"a": 1}, {"a": 1}) == ""
    assert first_difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "b [1] then, [2] now"
    assert first_difference({}, {"a": "x" * 99}) == f"a None then, {'x' * 60}... now"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_at_random_moments_change_no_byte(tmp_path):
    fixed, moving, _ = pair(PLANE, PLANE)
    for name, image in (("fixed", fixed), ("moving", moving)):
        nib.save(nib.Nifti1Image(image.numpy()[0], PLANE.in_space.full_affine), tmp_path / f"{name}.nii")
    (tmp_path / "settings.json").write_text(json.dumps(CONFIG.to_dict()))
    words = ["fixed.nii", "moving.nii", "--runs", "5", "--config", "settings.json"]
    script = Path(__file__).with_name("kills.py")
    answer = subprocess.run([sys.executable, script, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["different"] == {} and found["outputs"] == 5 and found["kills"] >= 5
