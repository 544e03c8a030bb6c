# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C during ``register``: with ``--resume`` a state to continue from, otherwise the result so far."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from monai_locor.io.paths import STATE_FOLDER
from monai_locor.registration import RegistrationEngine

from ..run_schema import valid_run
from .files import REGISTER, load


@pytest.fixture
def ctrl_c(monkeypatch):
    """``ctrl_c(n)``: a signal while step n is computed, of two in each of the two stages."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    original = RegistrationEngine._step

    def arm(steps: int) -> None:
        count = iter(range(10**6))

        def step(self):
            if next(count) == steps:
                signal.raise_signal(signal.SIGINT)
            return original(self)

        monkeypatch.setattr(RegistrationEngine, "_step", step)

    yield arm
    signal.signal(signal.SIGINT, before)


def test_with_resume_the_same_command_continues(run, short_folder, ctrl_c):
    words = [*REGISTER, "--resume", "-o", "out"]
    ctrl_c(3)
    answer = run(*words)
    assert answer.code == 130 and answer.out.endswith("interrupted; run the same command again to continue in out\n")
    assert {path.name for path in (short_folder / "out").iterdir()} == {STATE_FOLDER}
    ctrl_c(3)
    assert run(*words).code in (0, 1)  # step 3 does not come: the first stage was restored
    assert not (short_folder / "out" / STATE_FOLDER).exists()
    ctrl_c(-1)
    run(*REGISTER, "-o", "whole")
    field, whole = (load(short_folder / name / "forward_field.nii.gz") for name in ("out", "whole"))
    np.testing.assert_array_equal(field, whole)


def test_with_resume_before_the_first_stage_ends(run, short_folder, ctrl_c):
    ctrl_c(1)
    answer = run(*REGISTER, "--resume", "-o", "out")
    assert answer.code == 130 and "incomplete outputs are not written" in answer.err and not (short_folder / "out").exists()


def test_without_resume_the_result_so_far_is_written(run, short_folder, ctrl_c):
    ctrl_c(3)
    assert run(*REGISTER, "-o", "out").code == 130
    assert valid_run(short_folder / "out" / "run.json")["interrupted"] is True
    assert (short_folder / "out" / "forward_field.nii.gz").exists()
