# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Damaged and hostile inputs are read or refused: no crash, no hang, no memory beyond a bound, no half-written output.

``pytest -m slow tests/fuzz --fuzz-inputs 200000`` tries more of them. The same inputs are drawn in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from monai_locor.child_process import ChildProcess

from .inputs import SHARES, Question, fault_of, questions, registrations

BATCH = 2000  # inputs drawn with one seed: Hypothesis remembers what it has drawn
PHASES = (Phase.generate, Phase.shrink)


@pytest.fixture(scope="module")
def child() -> Iterator[ChildProcess]:
    process = ChildProcess("tests.fuzz.child")
    yield process
    process.close()


@pytest.fixture(scope="module")
def seeds(child, tmp_path_factory) -> Path:
    """Folder of valid files."""
    folder = tmp_path_factory.mktemp("fuzz")
    assert child.ask({"target": "seeds", "arguments": {"folder": str(folder)}})["end"] == "read"
    return folder


def attack(child: ChildProcess, folder: Path, strategy: st.SearchStrategy[Question], count: int) -> None:
    """Hand so many inputs to the package; the first fault is reduced to a small input and reported."""
    for batch in range(-(-count // BATCH)):

        @seed(batch)
        @settings(
            max_examples=min(BATCH, count - batch * BATCH),
            database=None,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(question: Question) -> None:
            fault = fault_of(child, folder, question)
            assert not fault, (fault, *question[:2])

        each()


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARES)
def test_inputs(target, child, seeds, fuzz_inputs):
    attack(child, seeds, questions(target, seeds), round(SHARES[target] * fuzz_inputs))


@pytest.mark.slow
def test_registrations(child, seeds, fuzz_inputs):
    attack(child, seeds, registrations(), max(24, fuzz_inputs // 100))
