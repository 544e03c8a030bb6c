# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs to train on: made of subjects, divided, drawn, read once, refused when one of them will not do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.data import training_pairs as training
from monai_locor.data.training_pairs import ReadTrainingPaird, check_training_pairs, training_pairs

SHAPE = (10, 11, 12)
AFFINE = np.array([[-4.0, 0, 0, 18], [0, 4, 0, -20], [0, 0, 4, -22], [0, 0, 0, 1]])


def volume(path: Path, shape=SHAPE, affine: np.ndarray = AFFINE, label: bool = False) -> str:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    data = (data > 1).astype(np.uint8) * 3 if label else data
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


def landmarks(path: Path, points=((0, 0, 0), (5, -5, 5))) -> str:
    header = "xyz"[: len(points[0])]
    path.write_text("\n".join(",".join(map(str, row)) for row in (header, *points)))
    return str(path)


def subjects(folder: Path, number: int, **extra) -> list[dict[str, str]]:
    """With images of their own, in files that are not empty."""
    out = []
    for n in range(number):
        item = {"name": f"s{n}"}
        for role in ("fixed", "moving"):
            item[role] = volume(folder / f"s{n}_{role}.nii")
        out.append({**item, **extra})
    return out


@pytest.fixture
def four(tmp_path) -> list[dict[str, str]]:
    return subjects(tmp_path, 4)


def full(folder: Path) -> dict[str, str]:
    """A subject with everything."""
    item = {"name": "all"}
    for role in ("fixed", "moving"):
        item[role] = volume(folder / f"{role}.nii")
        item[f"{role}_label"] = volume(folder / f"{role}_label.nii", label=True)
        item[f"{role}_mask"] = volume(folder / f"{role}_mask.nii", label=True)
        item[f"{role}_landmarks"] = landmarks(folder / f"{role}.csv")
    return item


def names(pairs) -> set[str]:
    return {name for pair in pairs for name in pair["name"].split("_to_")}


def refusal(function, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- pairing


@pytest.mark.parametrize(("pairing", "number"), [("within", 4), ("across", 12), ("all", 16)])
def test_pairings(four, pairing, number):
    pairs = training_pairs({"training": four}, "training", pairing)
    made = {(p["fixed"], p["moving"]) for p in pairs}
    assert len(pairs) == len(made) == len({p["name"] for p in pairs}) == number
    own = {(s["fixed"], s["moving"]) for s in four}
    assert len(made & own) == (0 if pairing == "across" else 4)


def test_everything_goes_with_its_role(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = ({**full(tmp_path / name), "name": name} for name in "ab")
    ab, ba = training_pairs([a, b])
    for pair, fixed, moving in ((ab, a, b), (ba, b, a)):
        assert pair["name"] == f"{moving['name']}_to_{fixed['name']}"
        expected = {k: v for s, role in ((fixed, "fixed"), (moving, "moving")) for k, v in s.items() if k.startswith(role)}
        assert {k: v for k, v in pair.items() if k != "name"} == expected and len(expected) == 8


def test_forms_of_a_datalist(four, tmp_path, monkeypatch):
    short = [{**s, "fixed": Path(s["fixed"]).name, "moving": Path(s["moving"]).name, "moving_label": None} for s in four]
    (tmp_path / "list.json").write_text(json.dumps({"training": short}))
    expected = training_pairs({"training": four})
    assert training_pairs(tmp_path / "list.json") == expected
    assert training_pairs(short, dataset_dir=tmp_path) == expected
    monkeypatch.chdir(tmp_path)
    assert training_pairs({"training": short}) == expected
    unnamed = [{k: v for k, v in s.items() if k != "name"} for s in four]
    assert training_pairs(unnamed)[0]["name"] == "s1_fixed_to_s0_fixed"


# --- division


@pytest.mark.parametrize(("fraction", "kept"), [(0.25, 6), (0.5, 4), (0.3, 6)])
def test_division(tmp_path, fraction, kept):
    items = subjects(tmp_path, 8)
    parts = {s: training_pairs(items, s, "within", None, fraction) for s in ("training", "validation")}
    train, rest = names(parts["training"]), names(parts["validation"])
    assert len(train) == kept and not train & rest and train | rest == {s["name"] for s in items}
    assert parts["training"] == training_pairs(items, "training", "within", None, fraction)
    assert len({frozenset(names(training_pairs(items, "validation", "within", None, 0.25, seed=n))) for n in range(9)}) > 2


def test_a_validation_list_is_taken_as_it_is(four):
    content = {"training": four[:2], "validation": four[2:]}
    for section, expected in (("training", {"s0", "s1"}), ("validation", {"s2", "s3"})):
        for fraction in (None, 0.5):
            assert names(training_pairs(content, section, validation_fraction=fraction)) == expected


def test_sections_share_nobody(four):
    renamed = {**four[0], "name": "other"}  # the same images
    namesake = {**four[3], "name": "s0"}
    for shared in (four[0], renamed, namesake):
        content = {"training": four[:2], "validation": [four[2], shared], "testing": [four[1], four[2]]}
        for section in ("training", "validation"):
            assert f"in both {section} and" in refusal(training_pairs, content, section)
        assert "in both testing and training" in refusal(training_pairs, content, "testing")


# --- a limit


@pytest.mark.parametrize("pairing", ["within", "across", "all"])
@pytest.mark.parametrize("limit", [1, 3, 7, 10, 24, 1000])
def test_a_limit_is_kept_and_spreads_evenly(tmp_path, pairing, limit):
    items = subjects(tmp_path, 7)
    everything = training_pairs(items, pairing=pairing)
    some = training_pairs(items, pairing=pairing, limit=limit)
    assert len(some) == min(limit, len(everything)) and all(pair in everything for pair in some)
    uses = Counter(name for pair in some for name in pair["name"].split("_to_"))
    assert max(uses.values()) - min(uses.get(s["name"], 0) for s in items) <= 2  # a pair of one subject counts twice
    assert some == training_pairs(items, pairing=pairing, limit=limit)
    if pairing == "across" and limit in (3, 7, 10):
        assert len({str(training_pairs(items, limit=limit, seed=n)) for n in range(5)}) == 5
    if pairing == "across" and limit >= 4:
        assert names(some) == {s["name"] for s in items}


# --- refusals


def test_missing_files_are_named_with_subject_and_key(four, tmp_path):
    four[1]["moving"] = str(tmp_path / "none.nii")
    four[2]["fixed_label"] = "label.nii"
    four[3]["moving_landmarks"] = "points.csv"
    message = refusal(training_pairs, {"training": four}, dataset_dir=tmp_path)
    for part in (
        "subject 2 (s1): moving",
        "none.nii: no such file",
        "subject 3 (s2): fixed_label",
        "subject 4 (s3): moving_landmarks",
    ):
        assert part in message
    assert "datalist, training" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "s0"}, "subject 2 (s0) has the name of another subject"),
        ({"moving": None}, "subject 2 (s1) has no moving"),
        ({"fixed_lable": "x"}, "unknown key fixed_lable, known are fixed, fixed_label"),
        ({"moving": True}, "subject 2: moving must be the name of a file"),
    ],
)
def test_faults_of_a_subject(four, change, message):
    assert message in refusal(training_pairs, [four[0], {**four[1], **change}])


@pytest.mark.parametrize(
    ("content", "section", "options", "message"),
    [
        ({"validation": 2}, "training", {}, "has validation, but no list training"),
        ({"training": 2}, "validation", {}, "has no list validation; add one, or set validation_fraction"),
        ({"training": 0}, "training", {}, "training: is not a list with at least one subject"),
        ({"training": 1}, "training", {}, "one subject for training, s0"),
        ({"training": 2}, "training", {"validation_fraction": 0.5}, "one subject for training"),
        ({"training": 2}, "validation", {"validation_fraction": 0.5}, "one subject for validation"),
        ({"training": 4}, "validation", {"validation_fraction": 0.1}, "of 4 subjects leaves none for validation"),
        ({"training": 4}, "training", {"validation_fraction": 0.1}, "of 4 subjects leaves none for validation"),
        ({"training": 4}, "training", {"validation_fraction": 0.9}, "of 4 subjects leaves none for training"),
        ({"training": 4}, "training", {"validation_fraction": 1.5}, "must lie between 0 and 1, got 1.5"),
        ({"training": 4}, "training", {"validation_fraction": True}, "must lie between 0 and 1, got True"),
        ({"training": 4}, "training", {"pairing": "both"}, "one of within, across, all, got 'both'"),
        ({"training": 4}, "training", {"limit": 0}, "limit must be a whole number, 1 or more, got 0"),
        ({"training": 4}, "training", {"seed": -1}, "seed must be a whole number, 0 or more, got -1"),
        ("text", "training", {}, "cannot be read"),
    ],
)
def test_what_is_refused(four, content, section, options, message):
    given = content if isinstance(content, str) else {key: four[:number] for key, number in content.items()}
    assert message in refusal(training_pairs, given, section, **options)


def test_an_item_that_is_no_object(four):
    assert "subject 2 is 'x', not an object" in refusal(training_pairs, [four[0], "x"])


# --- the images


def test_every_file_is_read_once(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    items = [{**full(tmp_path / name), "name": name} for name in "ab"]
    items[1]["moving"] = items[1]["fixed"]  # one modality
    read: list[str] = []
    for reader in ("read_image", "read_label", "read_mask", "read_landmarks"):
        inner = getattr(training, reader)
        monkeypatch.setattr(training, reader, lambda source, role, inner=inner: read.append(source) or inner(source, role))
    check_training_pairs(training_pairs(items, pairing="all"), 5.0)
    files = {v for item in items for k, v in item.items() if k != "name"}
    assert set(read) == files and len(read) == len(files)


@pytest.fixture
def one(tmp_path) -> dict[str, str]:
    return training_pairs([full(tmp_path)], pairing="within")[0]


def check(pair, spacing: float = 5.0, preset="default", **change) -> str:
    check_training_pairs([pair], 5.0)  # without the change it passes
    return refusal(check_training_pairs, [pair, {**pair, **change}], spacing, preset)


def test_spacing(one):
    message = check(one, spacing=6.0)
    assert "fewer than 8 voxels of 6 mm" in message and one["fixed"] in message
    most = float(message.split("at most ")[1].split()[0])
    check_training_pairs([one], most)
    assert most == pytest.approx(9 * 4 / 7, abs=1e-3)
    for wrong in (0, -1.0, True, "3", np.nan, np.inf):
        assert "spacing must be a positive number" in refusal(check_training_pairs, [one], wrong)


def test_images_that_do_not_go_together(one, tmp_path):
    flat, thin = volume(tmp_path / "flat.nii", (40, 41)), volume(tmp_path / "thin.nii", (1, 40, 41))
    message = check(one, moving=flat)
    assert flat in message and one["fixed"] in message and "2-D" in message and "3-D" in message
    for role in ("fixed", "moving"):
        message = check(one, **{role: thin})
        assert f"{role} image {thin}: has one voxel along an axis, (1, 40, 41)" in message


def test_an_unreadable_image(one, tmp_path):
    (tmp_path / "text.nii").write_text("text")
    assert "text.nii: cannot be read" in check(one, fixed=str(tmp_path / "text.nii"))


def test_labels_and_masks_elsewhere(one, tmp_path):
    far = AFFINE.copy()
    far[0, 3] = 500
    for kind in ("label", "mask"):
        check_training_pairs([{**one, f"moving_{kind}": volume(tmp_path / "fine.nii", (30, 31, 32), AFFINE / 2, True)}], 5.0)
        path = volume(tmp_path / f"far_{kind}.nii", affine=far, label=True)
        message = check(one, **{f"moving_{kind}": path})
        assert f"moving {kind} {path}: is zero everywhere in the field of view of {one['moving']}" in message
        flat = volume(tmp_path / f"flat_{kind}.nii", (40, 41), label=True)
        assert "is 2-D, (40, 41)" in check(one, **{f"fixed_{kind}": flat})
    assert "whole numbers" in check(one, fixed_label=one["fixed"])


def test_landmarks_that_do_not_match(one, tmp_path):
    three = landmarks(tmp_path / "three.csv", ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    message = check(one, moving_landmarks=three)
    assert "2 fixed landmarks" in message and f"3 moving ones in {three}" in message and "all_to_all" in message
    flat = landmarks(tmp_path / "flat.csv", ((0, 0), (1, 1)))
    assert f"{flat}: has 2 coordinates a point" in check(one, fixed_landmarks=flat)
    voxels = landmarks(tmp_path / "voxels.csv", ((90, 80, 85), (95, 80, 85)))
    assert f"{voxels}: no point lies in the field of view of {one['fixed']}, the first is [90.0" in check(
        one, fixed_landmarks=voxels
    )
    bad = tmp_path / "bad.csv"
    bad.write_text("x,y,z\n1,2\n")
    assert f"moving landmarks {bad}, line 2" in check(one, moving_landmarks=str(bad))
    alone = {k: v for k, v in one.items() if k != "fixed_landmarks"}
    message = refusal(check_training_pairs, [alone], 5.0)
    assert "no fixed_landmarks" in message and one["moving_landmarks"] in message


def test_world_coordinates_are_trusted_only_when_told_to(one, tmp_path):
    far = AFFINE.copy()
    far[0, 3] = 500
    pair = {"name": "far", "fixed": one["fixed"], "moving": volume(tmp_path / "far.nii", affine=far)}
    check_training_pairs([pair], 5.0)
    message = refusal(check_training_pairs, [pair], 5.0, {"initialization": "world"})
    assert pair["moving"] in message and "share only" in message


# --- reading


def test_reading(one):
    d = ReadTrainingPaird()(one)
    for role in ("fixed", "moving"):
        for key in (role, f"{role}_label", f"{role}_mask"):
            assert d[key].shape == (1, *SHAPE) and d[key].dtype == torch.float32
            torch.testing.assert_close(d[key].affine, torch.from_numpy(AFFINE))
        assert set(d[f"{role}_label"].unique().tolist()) == {0, 3}
        assert d[f"{role}_landmarks"].tolist() == [[0, 0, 0], [5, -5, 5]]
    assert d["name"] == "all_to_all" and isinstance(one["fixed"], str)
    few = ReadTrainingPaird()({"fixed": one["fixed"], "moving": one["moving"], "fixed_label": None})
    assert few["fixed_label"] is None and "moving_label" not in few
