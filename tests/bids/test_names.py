# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Names of the files of derivatives."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_locor import InputError
from monai_locor.bids.derivatives import check_pair_names
from monai_locor.bids.names import PairNames, bids_image

T1, T2 = "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"
CASES = {  # fixed and moving; both warped images and both transforms
    "contrasts": (
        (T2, T1),
        ("sub-01_space-T2w_desc-registered_T1w", "sub-01_space-T1w_desc-registered_T2w"),
        ("sub-01_from-T1w_to-T2w", "sub-01_from-T2w_to-T1w"),
    ),
    "sessions": (
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii"),
        ("sub-01_ses-2_space-ses1T1w_desc-registered_T1w", "sub-01_ses-1_space-ses2T1w_desc-registered_T1w"),
        ("sub-01_ses-2_from-T1w_to-ses1T1w", "sub-01_ses-2_from-ses1T1w_to-T1w"),
    ),
    "datatypes": (
        ("sub-01/anat/sub-01_acq-hi_T1w.nii.gz", "sub-01/pet/sub-01_trc-FDG_run-1_pet.nii.gz"),
        ("sub-01_trc-FDG_run-1_space-acqhiT1w_desc-registered_pet", "sub-01_acq-hi_space-trcFDGrun1pet_desc-registered_T1w"),
        ("sub-01_trc-FDG_run-1_from-pet_to-acqhiT1w", "sub-01_trc-FDG_run-1_from-acqhiT1w_to-pet"),
    ),
    "one suffix": (
        (T1, "sub-01/anat/sub-01_acq-lo_chunk-1_T1w.nii.gz"),
        ("sub-01_acq-lo_space-T1w_chunk-1_desc-registered_T1w", "sub-01_space-acqlochunk1T1w_desc-registered_T1w"),
        ("sub-01_acq-lo_chunk-1_from-acqlochunk1T1w_to-T1w", "sub-01_acq-lo_chunk-1_from-T1w_to-acqlochunk1T1w"),
    ),
    "derivatives": (
        ("sub-01/anat/sub-01_space-MNI152Lin_res-2_desc-preproc_T2w.nii.gz", "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"),
        ("sub-01_space-MNI152Lin_desc-preprocRegistered_T1w", "sub-01_space-descpreprocT1w_desc-preprocRegistered_T2w"),
        ("sub-01_from-T1w_to-MNI152Lin", "sub-01_from-MNI152Lin_to-T1w"),
    ),
    "template": (
        ("tpl-MNI152NLin6Asym/tpl-MNI152NLin6Asym_res-01_T1w.nii.gz", T1),
        ("sub-01_space-MNI152NLin6Asym_res-01_desc-registered_T1w", None),
        ("sub-01_from-T1w_to-MNI152NLin6Asym", "sub-01_from-MNI152NLin6Asym_to-T1w"),
    ),
    "subjects": (
        ("sub-02/anat/sub-02_T1w.nii.gz", T1),
        ("sub-01_space-sub02T1w_desc-registered_T1w", "sub-02_space-sub01T1w_desc-registered_T1w"),
        ("sub-01_from-T1w_to-sub02T1w", "sub-01_from-sub02T1w_to-T1w"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_names(name, tmp_path):
    (fixed, moving), warped, transforms = CASES[name]
    names = PairNames.of(tmp_path / fixed, tmp_path / moving)
    assert names.fixed.root == names.moving.root == tmp_path and str(names.moving.path) == moving
    found = [names.resampled(names.moving), names.resampled(names.fixed, to_fixed=False)]
    folders = [Path(moving).parent, Path(fixed).parent]
    expected = [each and f"{folder}/{each}.nii.gz" for folder, each in zip(folders, warped, strict=True)]
    assert [each and str(each) for each in found] == expected
    found = [str(names.transform("xfm", ".x5", inverse)) for inverse in (False, True)]
    assert found == [f"{folders[0]}/{each}_mode-image_xfm.x5" for each in transforms]


def test_segmentations_keep_their_description(tmp_path):
    names = PairNames.of(tmp_path / T2, tmp_path / T1)
    image = bids_image(tmp_path / "other/sub-01/anat/sub-01_desc-lesion_mask.nii.gz", "labels")
    assert image.root == tmp_path / "other"
    assert str(names.resampled(image)) == "sub-01/anat/sub-01_space-T2w_desc-lesion_mask.nii.gz"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("t1.nii.gz", "fixed image .*t1.nii.gz: has no name of BIDS; name it like sub-01/anat/sub-01_T1w.nii.gz"),
        ("sub-01/anat/sub-01_T1w.mgz", "has no name of BIDS"),
        ("sub-01/anat/sub-01.nii.gz", "has no name of BIDS"),
        ("sub-01/anat/sub-01_acq-a-b_T1w.nii.gz", "has no name of BIDS"),
        ("sub-01/anat/sub-01_acq-a_acq-b_T1w.nii.gz", "has no name of BIDS"),
        ("sub-01/anat/acq-a_sub-01_T1w.nii.gz", "has no name of BIDS"),
        ("anat/sub-01_T1w.nii.gz", "is not in sub-01/DATATYPE, its folder in BIDS; move it there"),
        ("sub-01/anat/sub-01_ses-2_T1w.nii.gz", "is not in sub-01/ses-2/DATATYPE"),
        ("sub-01/ses-2/anat/sub-01_T1w.nii.gz", "is not in sub-01/DATATYPE"),
        ("sub-02/anat/sub-01_T1w.nii.gz", "is not in sub-01/DATATYPE"),
    ],
)
def test_other_names_are_refused(path, message, tmp_path):
    with pytest.raises(InputError, match=message):
        bids_image(tmp_path / path, "fixed image")


def test_pairs_without_names(tmp_path):
    with pytest.raises(InputError, match=r"moving image tpl-X_T1w.nii: is a template.*make it the fixed image"):
        PairNames.of(tmp_path / T1, tmp_path / "tpl-X_T1w.nii")
    with pytest.raises(InputError, match=r"sub-01_T1w.nii.gz: their names do not tell two spaces apart"):
        PairNames.of(tmp_path / T1, tmp_path / "derivatives/x" / T1)


def test_pairs_of_one_name_are_refused(tmp_path):
    fixed = ["acq-a_run-1_T2w", "acq-arun1_T2w", "acq-b_T2w"]
    names = [PairNames.of(tmp_path / f"sub-01/anat/sub-01_{each}.nii", tmp_path / T1) for each in fixed]
    check_pair_names([("pair 1", names[0]), ("pair 3", names[2])])
    with pytest.raises(InputError, match=r"pair 2 and pair 1 would both have sub-01/anat/sub-01_from-T1w_to-acqarun1T2w_"):
        check_pair_names([("pair 1", names[0]), ("pair 2", names[1])])


def test_a_pair_and_its_reverse_are_refused(tmp_path):
    """The inverse of one is the transform of the other."""
    names = [PairNames.of(tmp_path / fixed, tmp_path / moving) for fixed, moving in ((T2, T1), (T1, T2))]
    with pytest.raises(InputError, match="pair 2 and pair 1 would both have sub-01/anat/sub-01_from-T2w_to-T1w_"):
        check_pair_names([("pair 1", names[0]), ("pair 2", names[1])])
