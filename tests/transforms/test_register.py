# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration in pipelines: what lies in the moving space comes onto the fixed grid, the rest stays as it is."""

from __future__ import annotations

import logging
import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, set_track_meta
from monai.transforms import Compose, ConcatItemsd, EnsureChannelFirstd, LoadImaged, SaveImaged

from monai_locor import InputError, register
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.registration import RegistrationConfig, Stage
from monai_locor.transforms import RegisterD, Registerd, RegisterDict

from ..io.transform_cases import some_affine
from ..phantoms import image, turned

NOTHING = {"stages": [], "multistart": "never"}
FIXED = {3: turned(0.2, (2.0, -2.0, 2.2), (10, 11, 12)), 2: turned(0.2, (2.0, -2.0), (20, 21))}
MOVING = {3: turned(-0.1, (2.1, 2.0, 2.0), (16, 15, 17)), 2: turned(-0.1, (2.1, 2.0), (30, 29))}
OTHER = {3: turned(0.3, (1.5, 2.0, -3.0), (24, 18, 11)), 2: turned(0.3, (1.5, -2.0), (40, 30))}


def waves(grid: Grid, phase: float = 0.0, **meta) -> MetaTensor:
    return image(np.sin(grid.points() @ [0.3, 0.2, 0.25][: grid.dims] + phase), grid, **meta)


def labels(grid: Grid) -> MetaTensor:
    return MetaTensor((waves(grid).as_tensor() * 3).round().to(torch.int32) + 3, affine=grid.full_affine)


def sample(dims: int) -> dict:
    return {
        "fixed": waves(FIXED[dims]),
        "moving": waves(MOVING[dims], filename_or_obj="moving.nii.gz"),
        "labels": labels(MOVING[dims]),
        "other": torch.cat((waves(OTHER[dims]), waves(OTHER[dims], 1.0))),
        "name": "a",
    }


def step(dims: int, keys=("moving", "labels", "other"), mode=("bilinear", "nearest", "bilinear"), **options) -> Registerd:
    options = {"preset": NOTHING, "initial": some_affine(dims), "device": "cpu", **options}
    return Registerd(keys, "fixed", mode, **options)


@pytest.mark.parametrize("dims", [3, 2])
def test_everything_of_the_moving_space_comes_onto_the_fixed_grid(dims):
    data = sample(dims)
    kept = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in data.items()}
    out = step(dims, ddf_key="ddf", verdict_key="verdict")(data)
    transform = SpatialTransform.of_affine(some_affine(dims))
    grids = {"moving": MOVING[dims], "labels": MOVING[dims], "other": OTHER[dims]}
    for key, grid in grids.items():
        expected = transform.warp(data[key], grid, FIXED[dims], "nearest" if key == "labels" else "bilinear")
        found = out[key]
        assert isinstance(found, MetaTensor) and found.dtype == data[key].dtype and found.shape == expected.shape
        torch.testing.assert_close(found.affine, data["fixed"].affine)
        difference = (found.as_tensor().double() - expected.as_tensor().double()).abs()
        assert difference.mean() < 1e-2 if key == "labels" else difference.max() < 1e-4
    assert set(out["labels"].unique().tolist()) <= set(data["labels"].unique().tolist()) | {0}
    assert out["moving"].meta["filename_or_obj"] == "moving.nii.gz"
    assert tuple(out["ddf"].shape) == (dims, *FIXED[dims].shape) and out["verdict"] in ("PASS", "WARN", "FAIL")
    assert out["fixed"] is data["fixed"] and out["name"] == "a"
    for key, value in kept.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, data[key]) and torch.equal(value.affine, data[key].affine)


def test_aliases_and_backend():
    assert RegisterD is RegisterDict is Registerd and Registerd.backend


@pytest.mark.slow
def test_it_is_the_result_of_register_and_the_same_each_time():
    stages = (Stage(2, 3), Stage(2, 3, spacing=8, learning_rate=0.1))
    tiny = RegistrationConfig(stages=stages, multistart="never", intersubject="never")
    data = sample(2)
    one = Registerd("moving", "fixed", preset=tiny, seed=3, device="cpu", ddf_key="ddf")
    result = register(data["fixed"], data["moving"], preset=tiny, seed=3, device="cpu", progress=False)
    for _ in range(2):
        out = one(data)
        assert torch.equal(out["moving"].as_tensor(), result.warped_moving.as_tensor())
        assert torch.equal(out["ddf"].as_tensor(), result.forward_ddf)


@pytest.mark.slow
def test_several_channels_and_an_image_that_stays():
    dims = 2
    data = {**sample(dims), "fixed2": waves(FIXED[dims], 1.0), "moving2": waves(MOVING[dims], 1.0)}
    tiny = {"stages": [{"factor": 2, "iterations": 3}], "multistart": "never", "intersubject": "never"}
    one = Registerd(
        ["labels"], ["fixed", "fixed2"], "nearest", moving_key=["moving", "moving2"], preset=tiny, device="cpu", ddf_key="ddf"
    )
    out = one(data)
    images = [data["fixed"], data["fixed2"]], [data["moving"], data["moving2"]]
    result = register(*images, preset=tiny, device="cpu", progress=False)
    assert torch.equal(out["ddf"].as_tensor(), result.forward_ddf) and out["moving"] is data["moving"]
    assert torch.equal(out["labels"].as_tensor(), result.warp_moving(data["labels"], "nearest").as_tensor())


def test_masks_are_used_and_may_be_carried_along():
    data = {**sample(3), "fixed_mask": MetaTensor(torch.ones(1, *FIXED[3].shape), affine=FIXED[3].full_affine)}
    data["mask"] = MetaTensor(torch.ones(1, *MOVING[3].shape, dtype=torch.bool), affine=MOVING[3].full_affine)
    given = {"fixed_mask_key": "fixed_mask", "moving_mask_key": "mask"}
    out = step(3, ("moving", "mask"), ("bilinear", "nearest"), **given)(data)
    assert (
        out["mask"].dtype == torch.bool and out["mask"].shape[1:] == FIXED[3].shape and out["fixed_mask"] is data["fixed_mask"]
    )
    data["fixed_mask"] = MetaTensor(torch.zeros(1, *FIXED[3].shape), affine=FIXED[3].full_affine)
    with pytest.raises(InputError, match=r"fixed mask.*empty"):
        step(3, ("moving",), "bilinear", **given)(data)


@pytest.mark.parametrize("channel", [True, False])
def test_a_pipeline_from_files_to_files(tmp_path, channel):
    for name, grid in (("fixed", FIXED[3]), ("moving", MOVING[3]), ("labels", MOVING[3])):
        made = labels(grid) if name == "labels" else waves(grid)
        nib.save(nib.Nifti1Image(made[0].numpy(), grid.full_affine), tmp_path / f"{name}.nii.gz")
    keys = ["fixed", "moving", "labels"]
    before = [LoadImaged(keys), *([EnsureChannelFirstd(keys)] if channel else [])]
    after = [SaveImaged("labels", output_dir=tmp_path / "out", separate_folder=False, print_log=False)]
    after = [ConcatItemsd(["fixed", "moving"], "both"), *after] if channel else after
    pipeline = Compose([*before, step(3, ("moving", "labels"), ("bilinear", "nearest")), *after])
    out = pipeline({name: tmp_path / f"{name}.nii.gz" for name in keys})
    expected = step(3, ("moving", "labels"), ("bilinear", "nearest"))({key: sample(3)[key] for key in keys})
    torch.testing.assert_close(out["moving"].as_tensor(), expected["moving"].as_tensor(), atol=1e-4, rtol=0)
    assert not channel or out["both"].shape == (2, *FIXED[3].shape)
    saved = nib.load(next((tmp_path / "out").glob("labels*")))
    assert saved.shape == FIXED[3].shape
    np.testing.assert_allclose(saved.affine, FIXED[3].full_affine, atol=1e-4)


def test_loaders_collate_what_it_gives():
    data = [{key: value for key, value in sample(2).items() if key != "name"} for _ in range(2)]
    loader = DataLoader(Dataset(data, step(2, ddf_key="ddf", verdict_key="verdict")), batch_size=2)
    batch = next(iter(loader))
    assert batch["moving"].shape == (2, 1, *FIXED[2].shape) and len(batch["verdict"]) == 2


def test_pickled():
    data = sample(2)
    again = pickle.loads(pickle.dumps(step(2)))(data)
    assert torch.equal(again["moving"], step(2)(data)["moving"])


@pytest.mark.parametrize("missing", ["fixed", "moving", "labels", "mask"])
def test_missing_keys(missing):
    data = {**sample(2), "mask": MetaTensor(torch.ones(1, *MOVING[2].shape), affine=MOVING[2].full_affine)}
    del data[missing]
    with pytest.raises(KeyError, match=missing):
        step(2, moving_mask_key="mask")(data)
    out = step(2, moving_mask_key="mask", allow_missing_keys=True)(data)
    if missing in ("fixed", "moving"):
        assert all(out[key] is data[key] for key in data)
    else:
        assert out["moving"].shape == (1, *FIXED[2].shape) and missing not in out


def test_without_tracking_there_are_plain_tensors():
    set_track_meta(False)
    try:
        out = step(2, ddf_key="ddf")(sample(2))
    finally:
        set_track_meta(True)
    assert not isinstance(out["moving"], MetaTensor) and not isinstance(out["ddf"], MetaTensor)


def test_plain_labels_lie_where_the_moving_image_does():
    data = sample(2)
    expected = step(2)(data)["labels"]
    data["labels"] = data["labels"].as_tensor()
    assert torch.equal(step(2)(data)["labels"], expected)


@pytest.mark.parametrize("kind", ["int64", "uint8", "uint16", "uint32", ">i2", "bool", "float64"])
@pytest.mark.parametrize("placed", [False, True])
def test_arrays_keep_their_type_like_tensors(kind, placed):
    """The largest label of int64 is no float32."""
    data = sample(2)
    array = data["labels"].numpy().astype(kind)
    array[array > 4] = largest = min(2**24 + 1, np.iinfo(kind).max) if np.dtype(kind).kind in "iu" else 5
    data["labels"] = (array[0], MOVING[2].affine) if placed else array
    out = step(2)(data)["labels"]
    assert out.numpy().dtype == np.dtype(kind).newbyteorder("=")
    expected = SpatialTransform.of_affine(some_affine(2)).warp(
        torch.from_numpy(array.astype(np.int64)), MOVING[2], FIXED[2], "nearest"
    )
    assert (out.numpy().astype(np.int64) != expected.numpy()).mean() < 1e-2  # rounding at the borders of voxels
    assert int(out.numpy().max()) == int(array.max()) and (kind == "bool" or largest in out.numpy())
    assert set(np.unique(out.numpy()).tolist()) <= {0, *np.unique(array).tolist()}


def test_axes_of_one_voxel_stay():
    data = {key: value[..., None] if isinstance(value, torch.Tensor) else value for key, value in sample(2).items()}
    out = step(2)(data)
    assert out["moving"].shape == (1, *FIXED[2].shape, 1) == data["fixed"].shape
    torch.testing.assert_close(out["moving"][..., 0].as_tensor(), step(2)(sample(2))["moving"].as_tensor())


def test_what_is_not_pass_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        out = step(2, verdict_key="verdict")(sample(2))
    assert (out["verdict"] == "PASS") != ("registration of moving to fixed" in caplog.text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((["moving", "moving"], "fixed"), "must all differ"),
        ((["moving", "fixed"], "fixed"), "must all differ"),
        ((["moving"], "fixed", "cubic"), "cubic"),
        ((["moving", "labels"], "fixed", ["nearest"] * 3), "3"),
    ],
)
def test_wrong_arguments(arguments, told):
    with pytest.raises(ValueError, match=told):
        Registerd(*arguments)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="other: is 2-D, the fixed image 3-D"):
        step(3)({**sample(3), "other": sample(2)["other"]})


def test_device(device):
    data = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in sample(2).items()}
    out = step(2, device=device)(data)
    assert out["moving"].device.type == device.type
    torch.testing.assert_close(out["moving"].cpu().as_tensor(), step(2)(sample(2))["moving"].as_tensor(), atol=1e-3, rtol=0)
