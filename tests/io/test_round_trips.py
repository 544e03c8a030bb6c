# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Every transform format, written and read again, also by nitransforms; the errors that the documentation states."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from monai_locor.io import FORMATS

from .round_trips import HEAD, PAGE, TABLE, TRIPS, Trip, errors

LIMIT_MM = 1e-3
NEEDS = {"x5": "h5py", "dicom": "pydicom"}


@pytest.fixture(scope="module")
def stated() -> dict[tuple[str, ...], list[str]]:
    """The bounds in the table of the documentation, by format, file and transform."""
    found = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    rows = [[cell.strip() for cell in line.strip("| ").split(" |")] for line in found[0].splitlines() if line.startswith("|")]
    assert rows[0] == list(HEAD)
    return {(row[0].strip("`"), row[1].split("`")[1], row[2]): [*row[3:], ""][:2] for row in rows[2:]}


def test_every_format_is_in_the_table(stated):
    assert {trip.format for trip in TRIPS} == {*FORMATS}
    assert {*stated} == {(trip.format, trip.file, trip.what) for trip in TRIPS}, "python -m tests.io.round_trips"
    assert all((trip.by_hand is None) == FORMATS[trip.format].writes for trip in TRIPS)
    assert all(float(bound) <= LIMIT_MM for bounds in stated.values() for bound in bounds if bound)
    assert {key for key, bounds in stated.items() if bounds[1]} == {(t.format, t.file, t.what) for t in TRIPS if t.theirs}


@pytest.mark.parametrize("trip", TRIPS, ids=lambda trip: f"{trip.format}-{trip.file}-{trip.what}")
def test_round_trip(trip: Trip, stated, tmp_path):
    if trip.format in NEEDS:
        pytest.importorskip(NEEDS[trip.format])
    our, their = errors(trip, tmp_path)
    bounds = stated[trip.format, trip.file, trip.what]
    assert our <= float(bounds[0])
    assert (their is not None) == (bool(trip.theirs) and find_spec("nitransforms") is not None)
    assert their is None or their <= float(bounds[1])
