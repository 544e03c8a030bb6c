# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Aligned pairs on their way into a network: cached, augmented, collated, handed over."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, decollate_batch
from monai.data.utils import pickle_hashing
from monai.inferers import SimpleInferer
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from monai_locor.data.alignment import AlignPaird, PrepareBatchRegistration, training_collate
from monai_locor.data.training_pairs import ReadTrainingPaird, check_training_pairs, training_pairs
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io import write_image
from monai_locor.transforms import DerivativeMagnituded

from .phantom import EVERYTHING, QUICK, oblique, pair, refusal

# --- a transform that may be cached


def test_the_same_result_every_time_and_nothing_drawn():
    transform, given = AlignPaird(4.0, QUICK), pair()
    first = transform(given)
    torch.manual_seed(123)
    np.random.seed(123)
    state = torch.get_rng_state()
    with torch.no_grad():
        second = pickle.loads(pickle.dumps(transform))(given)
    assert torch.equal(torch.get_rng_state(), state)
    for key in (*EVERYTHING, "affine"):
        assert torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])), key
    assert not torch.equal(first["affine"], torch.eye(4).double())
    assert torch.equal(given["fixed"], pair()["fixed"]) and "affine" not in given  # the input is left alone


def test_caches_know_the_settings():
    options = ((4.0,), (4, "default"), (4.0, "fast"), (3.0,), (4.0, "default", "start"), (4.0, "default", "affine", 32))
    hashes = [pickle_hashing(AlignPaird(*each)) for each in options]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 5


@pytest.mark.parametrize("track_meta", [False, True])
def test_a_persistent_cache(files, tmp_path, track_meta):
    transform = Compose([ReadTrainingPaird(), AlignPaird(4.0, alignment="start")])
    options = {"hash_transform": pickle_hashing, "track_meta": track_meta, "weights_only": not track_meta}
    expected = transform(files[0])
    for _ in range(2):  # the second time from the disk
        item = PersistentDataset(files[:1], transform, tmp_path / "cache", **options)[0]
        assert item["name"] == expected["name"] and (not track_meta or item["fixed"].affine.equal(expected["fixed"].affine))
        for key in (*EVERYTHING, "affine", "fixed_landmarks"):
            assert torch.equal(torch.as_tensor(item[key]), torch.as_tensor(expected[key])), key
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.fixture
def files(tmp_path) -> list[dict[str, str]]:
    """Three subjects of different shape in files, in all pairs of two."""
    items = []
    for n, extra in enumerate((0, 2, 5)):
        grid = oblique((26 + extra, 22, 25), (2.1, 2.9, 2.3), (0.2, -0.15, 0.3 * n))
        given, item = pair(fixed=grid, matrix=np.eye(4)), {"name": f"s{n}"}
        for key in ("fixed", "moving", "fixed_label", "moving_label"):
            item[key] = str(tmp_path / f"{n}_{key}.nii")
            write_image(item[key], given[key], Grid.of(given[key]))
        for key in ("fixed_landmarks", "moving_landmarks"):
            item[key] = str(tmp_path / f"{n}_{key}.csv")
            rows = given[key][: 3 - n % 2].tolist()
            (tmp_path / f"{n}_{key}.csv").write_text("x,y,z\n" + "\n".join(",".join(map(str, row)) for row in rows))
        items.append(item)
    return training_pairs({"training": items}, pairing="within") + training_pairs({"training": items})


def test_a_training_loader(files):
    flipped = ("fixed", "moving", "fixed_weight", "moving_weight", "fixed_label", "moving_label")
    transform = Compose(
        [
            ReadTrainingPaird(),
            AlignPaird(4.0, alignment="start", spatial_size=(16, 18, 20)),
            RandFlipd(flipped, prob=1.0, spatial_axis=0),
            RandGaussianNoised(("moving",), prob=1.0, std=0.01),
            DerivativeMagnituded(("fixed", "moving"), spacing="voxel"),
        ]
    )
    within = files[:3]
    check_training_pairs(within, 4.0)
    loader = DataLoader(CacheDataset(within, transform, progress=False), batch_size=2, collate_fn=training_collate)
    first, last = loader
    assert first["fixed"].shape == first["moving"].shape == (2, 2, 16, 18, 20)
    assert first["name"] == ["s0_to_s0", "s1_to_s1"] and last["moving_label"].shape == (1, 1, 16, 18, 20)
    plain = AlignPaird(4.0, alignment="start", spatial_size=(16, 18, 20))(ReadTrainingPaird()(within[1]))
    for key in flipped:
        expected = plain[key].as_tensor().flip(1)
        noise = 0.06 if key == "moving" else 0.0
        torch.testing.assert_close(first[key][1, :1].as_tensor(), expected, atol=noise, rtol=0)
    # the world has not moved: only the order of the voxels has
    corner = apply_affine(first["fixed"][1].affine.numpy(), np.array([15.0, 0, 0]))
    np.testing.assert_allclose(corner, Grid.of(plain["fixed"]).affine[:3, 3], atol=1e-4)


def test_pairs_of_different_size_need_a_size(files):
    transform = Compose([ReadTrainingPaird(), AlignPaird(4.0, alignment="start")])
    items = [transform(item) for item in files[:2]]
    message = refusal(training_collate, items)
    assert "s0_to_s0 (1, " in message and "s1_to_s1 (1, " in message and "spatial_size" in message and "batch size 1" in message
    assert training_collate(items[:1])["fixed"].shape[0] == 1


# --- batches


def item(name: str, points: int = 3, **extra) -> dict:
    return {
        "name": name,
        **{key: MetaTensor(torch.rand(1, 8, 9, 10), affine=2.0 * torch.eye(4)) for key in ("fixed", "moving")},
        **{f"{role}_weight": MetaTensor(torch.ones(1, 8, 9, 10)) for role in ("fixed", "moving")},
        "fixed_landmarks": torch.rand(points, 3),
        "affine": torch.eye(4).double(),
        **extra,
    }


def test_collating_and_taking_apart_again():
    items = [item("a"), item("b", 5, note=None)]
    batch = training_collate(items)
    assert batch["affine"].shape == (2, 4, 4) and batch["affine"].dtype == torch.float64 and "note" not in batch
    assert batch["fixed_landmarks"].shape == (2, 5, 3)
    assert torch.equal(batch["fixed_landmarks"].isnan().any(2), torch.arange(5) >= torch.tensor([[3], [5]]))
    back = decollate_batch(batch)
    assert [b["name"] for b in back] == ["a", "b"]
    for given, found in zip(items, back, strict=True):
        assert torch.equal(found["fixed"].as_tensor(), given["fixed"].as_tensor())
        torch.testing.assert_close(found["fixed"].affine, given["fixed"].affine)
        points = found["fixed_landmarks"]
        assert torch.equal(points[points.isfinite().all(1)], given["fixed_landmarks"])


def test_a_key_that_only_some_pairs_have():
    assert "no note of a, c" in refusal(training_collate, [item("a"), item("b", note=torch.ones(1)), item("c", note=None)])


def test_what_a_network_is_called_with(device):
    calls = {}

    def network(moving, fixed, **weights):
        calls.update(moving=moving, fixed=fixed, **weights)
        return moving

    batch = training_collate([item("a"), item("b")])
    inputs, target, args, named = PrepareBatchRegistration()(batch, device)
    SimpleInferer()(inputs, network, *args, **named)
    assert set(calls) == {"moving", "fixed", "moving_weight", "fixed_weight"}
    for key, value in calls.items():
        assert type(value) is torch.Tensor and value.device.type == device.type
        assert torch.equal(value.cpu(), batch[key].as_tensor())
    assert target is calls["fixed"] and isinstance(batch["fixed"], MetaTensor)
    without = {key: batch[key] for key in ("fixed", "moving")}
    assert PrepareBatchRegistration()(without)[3] == {"moving_weight": None, "fixed_weight": None}
    with pytest.raises(ValueError, match="needs fixed and moving images, got fixed"):
        PrepareBatchRegistration()({"fixed": batch["fixed"]})
