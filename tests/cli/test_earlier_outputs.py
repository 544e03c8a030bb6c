# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""An output folder has the outputs of one registration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_locor.cli.registration_outputs import OUTPUTS
from monai_locor.errors import InputError
from monai_locor.io.earlier_outputs import FILES, FOLDERS, check_no_inputs, earlier_outputs, remove_outputs
from monai_locor.io.paths import ZARR_FORWARD

from .test_register import called, names, pair

__all__ = ["called", "pair"]


def test_the_outputs_of_an_earlier_run_are_removed(run, pair, called, folder):
    called["changes"] = {f"missing_{role}": torch.rand(1, 14, 12, 10) for role in ("fixed", "moving")}
    every = ",".join(name for name in OUTPUTS if name not in ("basis", "thumbnail"))
    assert run(*pair, "--missing", "map", "--outputs", every, "--moving-points", "moving.csv").code == 0
    for name in ("basis.safetensors", "basis.json", "thumbnail.jpg", "warped.png", f"{ZARR_FORWARD}/0/c", "notes.txt"):
        (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).touch()
    assert run(*pair, "--outputs", "affine", "--transform", "rigid", "--force").code == 0
    assert names(folder / "out") == {"affine.tfm", "run.json", "moving_on_fixed.csv", "notes.txt"}


def test_a_run_that_stops_while_it_writes_is_not_complete(run, pair, called, folder, monkeypatch):
    assert run(*pair).code == 0

    def stop(*_):
        raise InputError("disk full")

    monkeypatch.setattr("monai_locor.io.write_affine", stop)
    assert run(*pair, "--outputs", "forward,affine", "--force").code == 2
    assert names(folder / "out") == {"forward_field.nii.gz"}


def test_nothing_is_removed_before_there_is_a_result(run, pair, called, folder, monkeypatch):
    assert run(*pair).code == 0
    before = names(folder / "out")

    def fail(*_, **__):
        raise InputError("no overlap")

    monkeypatch.setattr("monai_locor.register", fail)
    assert run(*pair, "--outputs", "affine", "--force").code == 2 and names(folder / "out") == before


def test_without_force_outputs_are_not_mixed(run, refused, pair, called, folder):
    assert run(*pair, "--outputs", "error").code == 0
    (folder / "out" / "run.json").rename(folder / "run.json")
    (folder / "out" / "monai_locor_state").mkdir()
    assert "error.nii.gz: already exists and would be mixed" in refused(*pair, "--outputs", "affine")
    assert (folder / "out" / "error.nii.gz").is_file()


@pytest.mark.parametrize("record", [None, "{", "[]", '{"format": "of another program"}'])
def test_what_no_run_has_written_is_not_removed(run, refused, pair, called, folder, record):
    """Such as the project of a user, which may have files of these names."""
    out = folder / "out"
    out.mkdir()
    (out / "jacobian.nii.gz").touch()
    if record is not None:
        (out / "run.json").write_text(record)
    before = names(out)
    for force in ([], ["--force"]):
        message = refused(*pair, "--outputs", "affine", *force)
        assert "move it away" in message or (record is not None and "already exists" in message and not force)
        assert names(out) == before
    (out / "jacobian.nii.gz").unlink()
    (out / "affine.tfm").touch()  # what the run writes itself is replaced, as in any other folder
    assert run(*pair, "--outputs", "affine", "--force").code == 0


@pytest.mark.parametrize("start", ["out", "out/forward_field.nii.gz", "[out/run.json,1]"])
def test_an_input_is_not_removed(run, refused, pair, called, folder, start):
    assert run(*pair, "--outputs", "forward").code == 0
    assert "is also an input" in refused(*pair, "--outputs", "affine", "--initial", start, "--force")
    assert names(folder / "out") == {"forward_field.nii.gz", "run.json"}


def test_all_outputs_are_known():
    from monai_locor.blockwise.checks import FIELDS, WARPED

    out = Path("out")
    files = {path.name for output in OUTPUTS.values() for path in output.files(out / output.name)}
    assert files <= set(FILES) and {*FIELDS.values(), WARPED} == set(FOLDERS)


def test_links_are_removed_and_their_targets_are_kept(tmp_path):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", np.zeros(1))
    out = tmp_path / "out"
    out.mkdir()
    (out / ZARR_FORWARD).symlink_to(tmp_path / "data")
    (out / "affine.tfm").symlink_to(tmp_path / "data" / "a.npy")
    (out / "basis.safetensors").touch()
    (out / "run.json").write_text('{"format": "monai_locor run 1"}')
    with pytest.raises(InputError, match=r"basis.safetensors: of an earlier run, is also an input"):
        check_no_inputs(earlier_outputs(out), [out / "basis"])
    remove_outputs(earlier_outputs(out))
    assert not list(out.iterdir()) and (tmp_path / "data" / "a.npy").is_file()
