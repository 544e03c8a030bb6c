# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Lists of the images of a set."""

from __future__ import annotations

import json

import pytest

from monai_locor import InputError
from monai_locor.sets import Subject, read_subjects
from monai_locor.sets.subjects import checked_subjects, distinct_names, named_visits, reference_contrast

ROWS = [
    {"id": "b", "image": "b.nii", "contrast": "T1", "mask": "m.nii", "labels": ""},
    {"id": "a", "image": "sub/a.nii", "contrast": "FLAIR", "mask": "", "labels": "l.nii"},
]


def written(folder, kind: str):
    path = folder / f"list.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"testing": ROWS}))
    else:
        path.write_text("\n".join([";".join(ROWS[0]), *(";".join(row.values()) for row in ROWS)]))
    return path


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_list(tmp_path, kind):
    found = read_subjects(written(tmp_path, kind))
    assert found == [
        Subject("b", str(tmp_path / "b.nii"), "T1", mask=str(tmp_path / "m.nii")),
        Subject("a", str(tmp_path / "sub" / "a.nii"), "FLAIR", labels=str(tmp_path / "l.nii")),
    ]
    assert [subject.id for subject in checked_subjects(found)] == ["a", "b"] == [s.id for s in checked_subjects(found[::-1])]


def test_ids_and_contrasts_may_be_the_number_zero(tmp_path):
    rows = [{"id": n, "image": f"{n}.nii", "contrast": n} for n in range(2)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    for found in (read_subjects(path), [Subject.of(row) for row in rows]):
        assert [(subject.id, subject.contrast) for subject in found] == [("0", "0"), ("1", "1")]
    path.write_text(json.dumps([{"id": "", "image": "a.nii", "contrast": None}]))
    assert [(subject.id, subject.contrast) for subject in read_subjects(path)] == [("a", "")]


def test_images_are_named_by_their_files(tmp_path):
    (tmp_path / "list.csv").write_text("image\nx/t1.nii.gz\ny/t1.nii.gz\n")
    assert [subject.id for subject in read_subjects(tmp_path / "list.csv")] == ["x_t1", "y_t1"]
    assert distinct_names(["/a/s 1/f.nii", "/b/s 1/f.nii"]) == ["a_s_1_f", "b_s_1_f"]
    assert distinct_names(["p/one.nii", "q/two.nii"]) == ["one", "two"]
    visits = named_visits(["p/one.nii", {"id": "z", "image": "q.nii"}])
    assert [visit.id for visit in visits] == ["one", "z"] and visits[0].image.endswith("/p/one.nii")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,contrast\na,T1\n", "has no column image, but id, contrast"),
        ("image,id\n,a\n", "line 2 has no image"),
        ("image,id\n\n\n,a\n", "line 4 has no image"),
        ("image\n", "has no row"),
    ],
)
def test_incomplete_lists_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_subjects(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ([{"id": "a", "image": "a.nii"}], "has 1 images; give at least 2"),
        ([{"id": "a", "image": "a.nii"}, {"id": "A", "image": "b.nii"}], "id 'a' occurs 2 times"),
        ([{"id": "a", "image": "a.nii"}, {"id": "../b", "image": "b.nii"}], "not a safe file name"),
        ([{"id": "a", "image": "a.nii"}, {"id": "b"}], "subject 'b': has no image"),
        ([{"id": "a", "image": "a.nii"}, {"id": "b", "image": "b.nii", "contrats": "T1"}], "unknown key contrats"),
        ([{"id": "a", "image": "a.nii"}, {"id": "b", "image": "b.nii", "contrast": "a/b"}], "contrast: id 'a/b'"),
    ],
)
def test_sets_that_cannot_be(subjects, message):
    with pytest.raises(InputError, match=message):
        checked_subjects(subjects)


def test_the_reference_contrast():
    subjects = [Subject(str(n), "i.nii", contrast) for n, contrast in enumerate(["b", "a", "b", "a", "c"])]
    assert reference_contrast(subjects) == "a" and reference_contrast(subjects, "c") == "c"
    with pytest.raises(InputError, match="reference d: no image has this contrast; choose among a, b, c"):
        reference_contrast(subjects, "d")
