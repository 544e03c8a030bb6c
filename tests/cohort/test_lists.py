# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Lists of pairs: CSV files, datalists, Learn2Reg, BIDS; and the checks of all pairs."""

from __future__ import annotations

import json
import logging
import os

import pytest

from monai_locor import InputError
from monai_locor.cohort import CohortPair, check_pairs, read_pairs
from monai_locor.cohort.pairs import id_fault

from .small import pairs_of, save_image


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path, delimiter):
    path = tmp_path / "pairs.csv"
    rows = [["id", "age", "moving", "fixed", "fixed_mask"], ["a", "61", "m 1.nii", "/x/f.nii", ""], ["", "", "", "", ""]]
    rows.append(["b", "62", "sub/m2.nii", "f2.nii", "k.nii"])
    path.write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8-sig")
    first, second = read_pairs(path)
    assert first == CohortPair("a", "/x/f.nii", str(tmp_path / "m 1.nii"))
    assert second.files == {
        key: str(tmp_path / name) for key, name in (("fixed", "f2.nii"), ("moving", "sub/m2.nii"), ("fixed_mask", "k.nii"))
    }


def test_labels_that_drive_are_told_from_those_that_are_transformed(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving,moving_labels,fixed_driving_labels,moving_driving_labels\nf.nii,m.nii,c.nii,a.nii,b.nii\n")
    (pair,) = read_pairs(path)
    place = str(tmp_path)
    assert (pair.fixed_driving_labels, pair.moving_driving_labels) == (f"{place}/a.nii", f"{place}/b.nii")
    assert (pair.fixed_labels, pair.moving_labels) == (None, f"{place}/c.nii")


def test_pairs_without_ids_are_named_by_their_files(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving\nt1.nii.gz,ct.nii\nt2.nii.gz,ct.nii\n")
    assert [pair.id for pair in read_pairs(path)] == ["ct_to_t1", "ct_to_t2"]
    path.write_text("fixed,moving\na/t1.nii.gz,ct.nii\nb/t1.nii.gz,ct.nii\n")
    with pytest.raises(InputError, match="give each pair an id"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no row"),
        ("fixed,moving\n", "has no row"),
        ("fix,moving\na,b\n", "has no column fixed, but fix, moving"),
        ("fixed,moving,fixed_maks\na,b,c\n", "unknown fixed_maks"),
        ("id,fixed,moving\na,f.nii,\nb,,m.nii\n", "line 2 has no moving; line 3 has no fixed"),
        ("fixed,moving\na,b,c\n", "line 2 has more fields than the header"),
        ("fixed,moving\n\na,b\n\n,\nc,\n", "line 6 has no moving"),
        ("fixed,moving\n\n\na,b,c\n", "line 4 has more fields than the header"),
        ('fixed,moving\n"a,b\n', "is not a CSV file"),
        ("fixed,moving\n\x00,\udcff\n", "is not a CSV file"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_pairs(path)


def test_datalist(tmp_path):
    path = tmp_path / "list.json"
    item = {"fixed": "f.nii", "moving": "m.nii", "name": "a"}
    path.write_text(json.dumps({"training": [{}], "validation": [item], "other": [{**item, "id": "b"}]}))
    assert [pair.id for pair in read_pairs(path)] == ["a"]
    assert [pair.id for pair in read_pairs(path, section="other")] == ["b"]
    path.write_text(json.dumps([item]))
    assert read_pairs(path) == [CohortPair("a", str(tmp_path / "f.nii"), str(tmp_path / "m.nii"))]


@pytest.mark.parametrize("name", ["id", "name"])
def test_an_id_may_be_the_number_zero(tmp_path, name):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"testing": [{name: n, "fixed": "f.nii", "moving": "m.nii"} for n in range(2)]}))
    assert [pair.id for pair in read_pairs(path)] == ["0", "1"]
    path.write_text(json.dumps({"testing": [{"id": "", "fixed": "f.nii", "moving": "m.nii"}]}))
    assert [pair.id for pair in read_pairs(path)] == ["m_to_f"]


def test_learn2reg(tmp_path):
    """As in AbdomenMRCT: masks by modality, pairs in several lists."""
    path = tmp_path / "AbdomenMRCT_dataset.json"
    names = [f"./imagesTr/AbdomenMRCT_000{n}_000{k}.nii.gz" for n in (1, 2) for k in (0, 1)]
    images = [
        {"image": name, "label": name.replace("images", "labels"), "mask": name.replace("images", "masks")} for name in names
    ]
    content = {
        "name": "AbdomenMRCT",
        "modality": {"0": "MR", "1": "CT"},
        "training": {"0": images[::2], "1": images[1::2]},
        "training_paired_images": {"0": [{"fixed": names[0], "moving": names[1]}]},
        "registration_val": [{"fixed": names[2], "moving": names[3]}],
        "numRegistration_val": 1,
    }
    path.write_text(json.dumps(content))
    (pair,) = read_pairs(path)
    assert pair.id == "AbdomenMRCT_0002_0001_to_AbdomenMRCT_0002_0000"
    assert pair.fixed == str(tmp_path / names[2]) and pair.moving_mask == str(tmp_path / "masksTr" / names[3][11:])
    assert pair.fixed_labels is None
    (pair,) = read_pairs(path, section="training_paired_images")
    assert pair.fixed == str(tmp_path / names[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": [{}]}, "has no list testing, "),
        ({"testing": []}, "has no list testing, "),
        ({"testing": [3]}, "pair 1 is 3, not an object"),
        ({"testing": [{"fixed": "a"}]}, "pair 1 has no moving"),
        ({"testing": [{"fixed": "a", "moving": "b", "moving_lable": "c"}]}, "unknown moving_lable"),
        ({"testing": {"0": 3}}, "is not a list with at least one pair"),
        ([], "is not a list with at least one pair"),
        ("text", "is not a list with at least one pair"),
    ],
)
def test_bad_json(tmp_path, content, message):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_pairs(path)
    path.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_pairs(path)


@pytest.fixture
def bids(tmp_path):
    names = ["sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_FLAIR", "sub-03/anat/sub-03_T1w"]
    names += [f"sub-02/ses-{n}/anat/sub-02_ses-{n}_{suffix}" for n in (1, 2) for suffix in ("T1w", "acq-3d_FLAIR")]
    for name in names:
        save_image(tmp_path / f"{name}.nii.gz")
    (tmp_path / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    (tmp_path / "participants.tsv").write_text("participant_id\n")
    return tmp_path


def test_bids(bids, caplog):
    with caplog.at_level(logging.WARNING, "monai_locor"):
        found = read_pairs(bids, fixed="T1w", moving="FLAIR")
    assert [pair.id for pair in found] == ["sub-01", "sub-02_ses-1", "sub-02_ses-2"]
    assert found[1].moving == str(bids / "sub-02/ses-1/anat/sub-02_ses-1_acq-3d_FLAIR.nii.gz")
    assert "1 sessions without T1w or FLAIR are skipped: sub-03" in caplog.text
    check_pairs(found)
    assert [pair.id for pair in read_pairs(bids, fixed="T1w", moving="acq-3d_FLAIR")] == ["sub-02_ses-1", "sub-02_ses-2"]


def test_bad_bids(bids, tmp_path):
    with pytest.raises(InputError, match="for BIDS, name the fixed and the moving image"):
        read_pairs(bids)
    with pytest.raises(InputError, match="no session has both T1w and CT"):
        read_pairs(bids, fixed="T1w", moving="CT")
    save_image(bids / "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    with pytest.raises(InputError, match=r"sub-01: T1w is 2 images .*add an entity"):
        read_pairs(bids, fixed="T1w", moving="FLAIR")
    with pytest.raises(InputError, match=r"section x: .* is a folder"):
        read_pairs(bids, section="x")
    (tmp_path / "pairs.csv").write_text("fixed,moving\na,b\n")
    with pytest.raises(InputError, match="apply to BIDS folders only"):
        read_pairs(tmp_path / "pairs.csv", fixed="T1w")
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "a\\b", "-o", ".hidden", "a b", "ä", "a.", "con", "Com1.x", "a" * 101]
)
def test_unsafe_ids(name):
    assert id_fault(name)


@pytest.mark.parametrize("name", ["a", "sub-01_ses-2", "CT.v2", "0", "a" * 100, "console"])
def test_safe_ids(name):
    assert id_fault(name) == ""


def test_all_faults_are_found_before_the_first_registration(tmp_path):
    good = pairs_of(tmp_path, ["a", "b"])
    check_pairs(good)
    with pytest.raises(InputError, match="has no pair"):
        check_pairs([])
    with pytest.raises(InputError, match=r"id 'A' occurs twice as 'a', .*; id '\.\./x' is not a safe file name"):
        check_pairs([*good, CohortPair("A", *good[0].files.values()), CohortPair("../x", *good[0].files.values())], "list")
    (tmp_path / "text.nii").write_text("no image")
    faulty = [CohortPair("c", good[0].fixed, "none.nii"), CohortPair("d", str(tmp_path / "text.nii"), good[0].moving)]
    faulty.append(CohortPair("e", good[0].fixed, good[0].moving, fixed_mask="mask.nii"))
    with pytest.raises(InputError, match="pair p: has landmarks of one image only; name both or none"):
        check_pairs([CohortPair("p", good[0].fixed, good[0].moving, fixed_landmarks="points.csv")])
    with pytest.raises(InputError, match="pair p: has driving labels of one image only; name both or none"):
        check_pairs([CohortPair("p", good[0].fixed, good[0].moving, moving_driving_labels="labels.nii")])
    with pytest.raises(InputError) as refusal:
        check_pairs([*good, *faulty], "list")
    assert str(refusal.value).count("; ") >= 2 and "\n" not in str(refusal.value)
    assert "list: pair c: moving image none.nii: no such file; pair d: fixed image" in str(refusal.value)
    assert "pair e: fixed mask mask.nii: no such file" in str(refusal.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_no_image(tmp_path):
    (good,) = pairs_of(tmp_path, ["a"])
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(InputError, match="not a file or folder"):
        check_pairs([CohortPair("b", good.fixed, str(tmp_path / "pipe.nii"))])


def test_mappings_are_pairs():
    assert CohortPair.of({"id": "a", "fixed": "f", "moving": "m", "fixed_mask": None}) == CohortPair("a", "f", "m")
    with pytest.raises(InputError, match="has no moving"):
        CohortPair.of({"id": "a", "fixed": "f"})
    with pytest.raises(InputError, match="has the unknown key mask"):
        CohortPair.of({"id": "a", "fixed": "f", "moving": "m", "mask": "x"})
