# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a network sees of a pair: the same however it is stored, labels and landmarks where the images are."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_locor import InputError
from monai_locor.data import alignment
from monai_locor.data.alignment import AlignPaird
from monai_locor.data.training_pairs import ReadTrainingPaird, check_training_pairs, training_pairs
from monai_locor.geometry import Grid, apply_affine, reorder

from .phantom import BLOBS, EVERYTHING, FIXED, MATRIX, MOVING, QUICK, blobs, oblique, pair, refusal, volume

ORDERS = list(product(permutations(range(3)), product((False, True), repeat=3)))


@pytest.fixture
def known(monkeypatch):
    """The affine is found to be the true one."""
    monkeypatch.setattr(alignment, "align", lambda *_: MATRIX.copy())


def center_of_mass(image: torch.Tensor) -> torch.Tensor:
    """Voxels, ``(D,)``."""
    values = torch.as_tensor(image)[0].double()
    index = torch.stack(torch.meshgrid(*map(torch.arange, values.shape), indexing="ij")).double()
    return (index * values).flatten(1).sum(1) / values.sum()


# --- geometry


def test_the_grid():
    d = AlignPaird(4.0, alignment="start")(pair())
    grid = Grid.of(d["fixed"])
    np.testing.assert_allclose(grid.spacing, 4)
    np.testing.assert_allclose(grid.center, FIXED.center, atol=1e-9)
    assert (np.diag(grid.affine)[:3] > 3).all() and (np.abs(grid.extent - FIXED.extent) <= 4).all()
    assert grid.shape == (15, 16, 14)
    for key in EVERYTHING:
        assert d[key].shape == (1, *grid.shape) and d[key].dtype == torch.float32, key
        np.testing.assert_allclose(d[key].affine, grid.affine)
        assert 0 <= float(d[key].min()) <= float(d[key].max()) <= (3 if "label" in key else 1), key
    assert d["affine"].shape == (4, 4) and d["affine"].dtype == torch.float64
    assert all(d[f"{role}_landmarks"].dtype == torch.float32 for role in ("fixed", "moving"))
    assert d["name"] == "b_to_a" and "fixed_mask" not in d


@pytest.mark.parametrize("size", [None, 24, (12, 13, 31), (11, 9, 10)])
@pytest.mark.parametrize("center", BLOBS)
def test_landmarks_lie_where_the_images_have_them(known, center, size):
    small = oblique((25, 20, 23), (2.4, 3.1, 2.5), (0.3, -0.2, 0.4), center)  # the blob stays in view
    center = np.array(center) + (1.3, -0.7, 0.9)
    moved = apply_affine(MATRIX, center)
    other = oblique((24, 33, 21), (2.6, 2.0, 2.7), (-0.25, 0.1, -0.2), moved + (2, -1.5, 1.1))
    given = pair([center], small, other)
    given["moving_landmarks"] = torch.from_numpy(moved + (0.0, 0, 0))[None]
    d = AlignPaird(3.0, spatial_size=size)(given)
    for role in ("fixed", "moving"):
        # the rim of a field of view cuts off some of the blob's tail
        tip = (d[role].as_tensor() - 0.2).clamp_min(0)
        np.testing.assert_allclose(center_of_mass(tip), d[f"{role}_landmarks"][0], atol=0.1, err_msg=role)
    np.testing.assert_allclose(apply_affine(Grid.of(d["fixed"]).affine, d["fixed_landmarks"].numpy())[0], center, atol=1e-4)


def test_a_displacement_between_the_images_is_the_one_between_the_landmarks(known):
    shift = np.array([3.0, -4, 2])  # mm in the fixed image's world, not in the affine
    given = pair(matrix=MATRIX @ np.block([[np.eye(3), shift[:, None]], [np.zeros((1, 3)), np.eye(1)]]))
    d = AlignPaird(3.0)(given)
    expected = np.linalg.inv(Grid.of(d["fixed"]).affine[:3, :3]) @ shift
    np.testing.assert_allclose(d["moving_landmarks"] - d["fixed_landmarks"], np.tile(expected, (3, 1)), atol=1e-4)
    still = AlignPaird(3.0)(pair())
    np.testing.assert_allclose(still["moving_landmarks"], still["fixed_landmarks"], atol=1e-4)
    assert np.abs(expected).min() > 0.3


def test_aligned_images_and_labels_are_alike(known):
    d = AlignPaird(2.5)(pair())
    both = (d["fixed_weight"] * d["moving_weight"]).as_tensor() == 1
    assert float(both.float().mean()) > 0.5
    assert float((d["fixed"] - d["moving"]).as_tensor()[both].abs().mean()) < 0.02
    for role in ("fixed", "moving"):
        image, label = d[role].as_tensor(), d[f"{role}_label"].as_tensor()
        assert float(image[label > 0].min()) > 0.25 and float(image[(label == 0) & both].max()) < 0.75, role
    for number in (1, 2, 3):
        a, b = ((d[f"{role}_label"].as_tensor() == number) & both for role in ("fixed", "moving"))
        assert float(2 * (a & b).sum() / (a.sum() + b.sum())) > 0.7, number  # a radius of two voxels


def test_labels_by_nearest_neighbor(known):
    given = pair()
    coarse = oblique((13, 14, 12), (4.5, 4.3, 4.7), (0.1, 0.3, -0.2))  # another grid than the image's
    given["moving_label"] = volume(np.random.default_rng(0).integers(0, 2000, coarse.shape), coarse)
    d = AlignPaird(4.0)(given)
    world = apply_affine(MATRIX, Grid.of(d["fixed"]).points())
    where = apply_affine(np.linalg.inv(coarse.affine), world)
    index = np.rint(where).astype(int)
    inside = ((index >= 0) & (index < np.array(coarse.shape))).all(-1)
    values = given["moving_label"][0].numpy()[tuple(np.moveaxis(np.clip(index, 0, np.array(coarse.shape) - 1), -1, 0))]
    certain = np.abs(where - np.floor(where) - 0.5).min(-1) > 1e-3
    np.testing.assert_array_equal(d["moving_label"][0].numpy()[certain], np.where(inside, values, 0)[certain])
    assert 0.2 < inside.mean() < 1 and certain.mean() > 0.9


def test_weights(known):
    given = pair()
    mask = volume((FIXED.points()[..., 0] < 0).astype(float), FIXED)
    d = AlignPaird(3.0)({**given, "fixed_mask": mask, "moving_mask": None})
    world = Grid.of(d["fixed"]).points()
    left, right = world[..., 0] < -4, world[..., 0] > 4
    weight = d["fixed_weight"][0].numpy()
    np.testing.assert_allclose(weight[left], 1, atol=1e-6)
    assert (weight[right] == 0).all() and "fixed_mask" not in d
    voxels = apply_affine(np.linalg.inv(MOVING.affine) @ MATRIX, world)
    inside = ((voxels >= 0) & (voxels <= np.array(MOVING.shape) - 1)).all(-1)
    weight = d["moving_weight"][0].numpy()
    np.testing.assert_allclose(weight[inside], 1, atol=1e-5)
    outside = ((voxels < -1) | (voxels > np.array(MOVING.shape))).any(-1)
    assert (weight[outside] == 0).all() and (d["moving"][0].numpy()[outside] == 0).all() and outside.any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(18, 16, 5), (7, 30, 14), (15, 16, 15)])
def test_cropping_and_padding_move_nothing(known, size):
    whole, part = AlignPaird(4.0)(pair()), AlignPaird(4.0, spatial_size=size)(pair())
    shift = apply_affine(np.linalg.inv(Grid.of(whole["fixed"]).affine) @ Grid.of(part["fixed"]).affine, np.zeros(3))
    start = np.rint(shift).astype(int)
    np.testing.assert_allclose(shift, start, atol=1e-6)
    margins = np.array([start * -1, start + size - np.array(whole["fixed"].shape[1:])])
    assert (np.abs(margins[0] - margins[1]) <= 1).all()  # about the center
    for key in EVERYTHING:
        assert part[key].shape == (1, *size)
        expected = np.zeros(size, np.float32)
        for index in np.ndindex(size):
            at = tuple(np.array(index) + start)
            if all(0 <= i < n for i, n in zip(at, whole[key].shape[1:])):
                expected[index] = whole[key][0].numpy()[at]
        np.testing.assert_array_equal(part[key][0].numpy(), expected, err_msg=key)
    for key in ("fixed_landmarks", "moving_landmarks"):
        np.testing.assert_allclose(part[key].numpy() + start, whole[key].numpy(), atol=1e-4)


def stored(image: MetaTensor, order) -> MetaTensor:
    grid = Grid.of(image).reordered(*order)
    return MetaTensor(reorder(image.as_tensor(), *order), affine=torch.tensor(grid.affine))


def check_order(order, role: str, transform: AlignPaird, tolerance: float) -> None:
    given = pair()
    given[f"{role}_mask"] = volume(
        (blobs(Grid.of(given[role]).points(), [(0, 0, 0)], 20) > 0.3).astype(float), Grid.of(given[role])
    )
    expected = transform(given)
    images = {k: stored(v, order) if k.startswith(role) and isinstance(v, MetaTensor) else v for k, v in given.items()}
    found = transform(images)
    assert found.keys() == expected.keys()
    for key in (*EVERYTHING, "fixed_landmarks", "moving_landmarks", "affine"):
        a, b = (torch.as_tensor(d[key]) for d in (found, expected))
        assert a.shape == b.shape and float((a - b).abs().max()) <= tolerance, key
        if isinstance(expected[key], MetaTensor):
            torch.testing.assert_close(found[key].affine, expected[key].affine, atol=1e-9, rtol=0)


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("order", ORDERS[1::16], ids=str)
def test_every_storage_order_gives_the_same_input(order, role):
    check_order(order, role, AlignPaird(4.0, alignment="start"), 1e-5)


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("order", ORDERS[11::40], ids=str)
def test_a_storage_order_changes_no_affine(order, role):
    check_order(order, role, AlignPaird(4.0, QUICK), 1e-5)


def test_labels_between_voxels_go_the_same_way_in_every_order():
    """Voxels of half the size: each of the network's lies in the middle of eight."""
    grid = Grid((32, 32, 32), np.diag([1.0, 1, 1, 1]))
    values = np.random.default_rng(0).integers(0, 100, grid.shape)
    given = {"fixed": volume(blobs(grid.points(), [(16, 16, 16)]), grid), "fixed_label": volume(values, grid)}
    given["moving"] = given["fixed"]
    transform = AlignPaird(2.0, alignment="start")
    expected = transform(given)["fixed_label"].as_tensor()
    for order in ORDERS[::7]:
        found = transform({**given, "fixed_label": stored(given["fixed_label"], order)})["fixed_label"].as_tensor()
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_the_affine_brings_the_images_together():
    preset = {"stages": [{"factor": 2, "iterations": 60}], "multistart": "never"}
    before, after = (AlignPaird(3.0, preset, how)(pair()) for how in ("start", "affine"))
    distance = [float((d["moving_landmarks"] - d["fixed_landmarks"]).norm(dim=1).mean()) for d in (before, after)]
    assert distance[0] > 1.5 and distance[1] < 0.5 * distance[0]
    assert torch.equal(before["affine"], torch.eye(4).double())


def test_two_dimensions():
    grid = Grid((40, 37), np.array([[0.0, -1.5, 20], [1.2, 0, -22], [0, 0, 1]]))
    center = np.array([4.0, -3.0])
    values = blobs(grid.points(), [center], 4)
    full = np.eye(4)
    full[:2, :2], full[:2, 3] = grid.affine[:2, :2], grid.affine[:2, 2]
    image = MetaTensor(torch.from_numpy(values).float()[None], affine=torch.from_numpy(full))
    points = torch.from_numpy(center)[None]
    given = {"fixed": image, "moving": image.flip(1), "fixed_label": (image > 0.5).float(), "fixed_landmarks": points}
    d = AlignPaird(3.0, alignment="start", spatial_size=24)(given)
    assert d["fixed"].shape == d["moving_weight"].shape == (1, 24, 24) and d["affine"].shape == (3, 3)
    np.testing.assert_allclose(center_of_mass(d["fixed"]), d["fixed_landmarks"][0], atol=0.05)
    np.testing.assert_allclose(center_of_mass(d["fixed_label"]), d["fixed_landmarks"][0], atol=0.25)


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 0}, "spacing must be a positive number of mm, got 0"),
        ({"preset": "slow"}, "slow is neither a preset"),
        ({"alignment": "rigid"}, "one of affine, start, got 'rigid'"),
        *(({"spatial_size": size}, "spatial_size must be") for size in (0, (8, -1, 8), (8, 8.0, 8), "8", (), (8,) * 4, True)),
        ({"device": "nowhere"}, "device nowhere cannot be used"),
    ],
)
def test_settings_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        AlignPaird(**{"spacing": 3.0, **options})


def test_pairs_that_cannot_be_aligned():
    start = AlignPaird(4.0, alignment="start")
    given = pair()
    assert "pair b_to_a" in refusal(AlignPaird(12.0), given)
    far = {**given, "moving": volume(given["moving"][0].numpy(), Grid(MOVING.shape, MOVING.affine + 500 * np.eye(4, k=3)))}
    start(far)
    assert "pair b_to_a: the fields of view" in refusal(AlignPaird(4.0, {"initialization": "world"}, "start"), far)
    assert "landmarks must be (N, 3)" in refusal(start, {**given, "fixed_landmarks": torch.zeros(4, 2)})
    assert "give 3 numbers" in refusal(AlignPaird(4.0, alignment="start", spatial_size=(8, 8)), given)


# --- real images


@pytest.mark.slow
def test_two_heads(shared):
    """T1 and FLAIR of two subjects with labels: the affine brings the labels closer together than the scanner did."""
    folder = shared / "data" / "nichart"
    items = [
        {
            "name": name,
            **{role: f"{name}_{kind}.nii.gz" for role, kind in (("fixed", "T1"), ("moving", "FLAIR"))},
            **{f"{role}_label": f"{name}_labels.nii.gz" for role in ("fixed", "moving")},
        }
        for name in ("Subj01", "Subj02")
    ]
    pairs = training_pairs(items, dataset_dir=folder, limit=1)
    check_training_pairs(pairs, 6.0, "fast")
    overlap = []
    for how in ("start", "affine"):
        d = AlignPaird(6.0, "fast", how, spatial_size=32)(ReadTrainingPaird()(pairs[0]))
        a, b = (d[f"{role}_label"] > 0 for role in ("fixed", "moving"))
        overlap.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
        assert d["fixed"].shape == (1, 32, 32, 32) and set(d["fixed_label"].unique().tolist()) > {0, 47}
    assert overlap[1] > 0.9 and overlap[1] > overlap[0] + 0.05
