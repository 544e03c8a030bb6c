# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Measures of predicted deformations: against slow loops and known answers, alone, in MONAI's engine and on two processes."""

from __future__ import annotations

import math
import os
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator

from monai_locor.geometry import Grid, identity_points
from monai_locor.handlers import RegistrationMetric, RegistrationMetrics
from monai_locor.handlers.registration_metrics import METRIC_NAMES, folding_percent, label_dice, landmark_error
from monai_locor.losses import LocalLearnedBasisCRLoss, LocalNCCLoss

OBLIQUE = np.array([[0.0, -2.0, 0.3, 10], [1.5, 0.2, 0, -3], [0.1, 0.1, 3.0, 4], [0, 0, 0, 1]])
SHAPES = [(9, 8), (7, 6, 5)]


def labels(shape: tuple[int, ...], seed: int, number: int = 4) -> torch.Tensor:
    return torch.randint(0, number, (1, *shape), generator=torch.Generator().manual_seed(seed)).float()


def displacement(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Up to two voxels and some, never halfway between two voxels, where nearest is undecided."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(shape), *shape)
    return torch.randint(-2, 3, size, generator=generator) + 0.8 * torch.rand(size, generator=generator) - 0.4


def slow_dice(fixed: torch.Tensor, moving: torch.Tensor, ddf: torch.Tensor, least: int) -> float:
    shape, warped = fixed.shape[1:], {}
    for voxel in product(*map(range, shape)):
        source = tuple(round(x + float(ddf[(i, *voxel)])) for i, x in enumerate(voxel))
        warped[voxel] = moving[0][source].item() if all(0 <= x < n for x, n in zip(source, shape, strict=True)) else 0
    scores = []
    for label in set(fixed.unique().tolist()) & set(moving.unique().tolist()) - {0}:
        first = {v for v in warped if fixed[0][v] == label}
        second = {v for v in warped if warped[v] == label}
        if len(first) >= least:
            scores.append(2 * len(first & second) / (len(first) + len(second)))
    return sum(scores) / len(scores) if scores else math.nan


# --- the measures


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("least", [1, 18, 1000])
def test_dice_equals_a_slow_one(shape, least, device):
    fixed, moving, ddf = labels(shape, 0, 5), labels(shape, 1, 4), displacement(shape)
    fixed[fixed == 3] = 7  # a label of the fixed image alone
    found = label_dice(fixed.to(device), moving.to(device), ddf.to(device), least)
    assert found == pytest.approx(slow_dice(fixed, moving, ddf, least), nan_ok=True)
    assert math.isnan(found) == (least == 1000)
    assert label_dice(fixed, moving, None, least) == pytest.approx(
        slow_dice(fixed, moving, torch.zeros_like(ddf), least), nan_ok=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_dice_does_not_mind_the_numbers_of_the_labels(dtype):
    fixed, moving, ddf = labels((9, 8), 0), labels((9, 8), 1), displacement((9, 8))
    for number in (60,) if dtype == torch.uint8 else (60, 2**20):
        assert label_dice((fixed * number).to(dtype), (moving * number).to(dtype), ddf, 1) == label_dice(fixed, moving, ddf, 1)


def test_dice_of_the_right_displacement_is_one():
    fixed = torch.zeros(1, 12, 12)
    fixed[:, 3:8, 2:7], fixed[:, 3:8, 7:9] = 5, 9
    moving = fixed.roll((2, 1), (1, 2))
    ddf = torch.tensor([2.0, 1.0]).reshape(2, 1, 1).expand(2, 12, 12)
    assert label_dice(fixed, moving, ddf, 1) == 1 > label_dice(fixed, moving, None, 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_landmark_error_is_measured_in_millimeters(dims):
    shape = (9, 8, 7)[:dims]
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = OBLIQUE[:dims, :dims]
    grid = Grid(shape, affine)
    matrix = 0.2 * torch.randn(dims, dims)
    ddf = torch.tensordot(matrix, identity_points(shape), dims=1) + 0.5  # linear, as is its interpolation
    fixed = torch.rand(5, dims) * (torch.tensor(shape) - 1)
    reached, off = fixed + fixed @ matrix.T + 0.5, torch.randn(5, dims)
    assert landmark_error(fixed, reached, grid, ddf) < 1e-5
    expected = np.linalg.norm(off.numpy() @ affine[:dims, :dims].T, axis=1).mean()
    assert landmark_error(fixed, reached + off, grid, ddf) == pytest.approx(expected, rel=1e-5)
    assert landmark_error(fixed, fixed + off, grid) == pytest.approx(expected, rel=1e-5)


def test_landmarks_that_are_not_known_do_not_count():
    points = torch.tensor([[1.0, 2.0], [float("nan"), 1.0], [3.0, 3.0]])
    there = points + torch.tensor([[0.0, 3.0], [0.0, 0.0], [float("nan"), 0.0]])
    assert landmark_error(points, there, Grid((5, 5), np.eye(3)), torch.zeros(2, 5, 5)) == 3
    assert math.isnan(landmark_error(points[1:], there[1:], Grid((5, 5), np.eye(3)), torch.zeros(2, 5, 5)))


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_counts_where_the_weight_is_positive(shape):
    x = identity_points(shape)
    assert folding_percent(torch.zeros_like(x)) == 0
    mirrored = torch.zeros_like(x)
    mirrored[0] = -2 * x[0]
    assert folding_percent(mirrored) == 100
    half = mirrored * (x[:1] >= 4)
    weight = (x[:1] >= 5).float()
    assert 0 < folding_percent(half) < 100 and folding_percent(half, weight) == 100
    assert math.isnan(folding_percent(half, torch.zeros_like(weight)))


# --- in MONAI's evaluator


class Shift(torch.nn.Module):
    """Predicts the same displacement for every pair, dependent on the first voxel of its moving image."""

    def forward(self, moving: torch.Tensor) -> dict[str, Any]:
        amount = moving[:, :, 0, 0].reshape(-1, 1, 1, 1)
        ddf = amount * displacement(tuple(moving.shape[2:])).to(moving)
        return {"ddf": ddf, "warped_moving": moving, "fixed": moving.flip(2), "nothing": None}


def pair(seed: int, with_labels: bool = True) -> dict[str, Any]:
    shape = (9, 8)
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))
    item = {"fixed": MetaTensor(image, affine=affine), "moving": MetaTensor(image.flip(1), affine=affine)}
    if with_labels:
        item |= {"fixed_label": labels(shape, seed), "moving_label": labels(shape, seed + 100), "name": f"pair{seed}"}
        item |= {k: torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)) * 7 for k in ("fixed_landmarks",)}
        item["moving_landmarks"] = item["fixed_landmarks"].flip(0)
    return item


def evaluate(data: list[dict[str, Any]], metrics: dict[str, Any], handlers: Any = None, **options: Any) -> Any:
    device = options.pop("device", torch.device("cpu"))
    evaluator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(Dataset(data), batch_size=options.pop("batch_size", 1)),
        network=Shift(),
        prepare_batch=lambda batch, *_, **__: (batch["moving"].as_tensor().to(device), batch["fixed"]),
        key_val_metric=metrics,
        val_handlers=handlers,
        **options,
    )
    evaluator.run()
    return evaluator.state


def expected(item: dict[str, Any]) -> dict[str, float]:
    ddf = Shift()(item["moving"].as_tensor()[None])["ddf"][0]
    grid, still = Grid.of(item["fixed"]), torch.zeros_like(ddf)
    marks = item["fixed_landmarks"], item["moving_landmarks"], grid
    return {
        "dice": slow_dice(item["fixed_label"], item["moving_label"], ddf, 15),
        "dice_before": slow_dice(item["fixed_label"], item["moving_label"], still, 15),
        "tre_mm": landmark_error(*marks, ddf),
        "tre_before_mm": float(((marks[0] - marks[1]) * torch.tensor([2.0, 3.0])).norm(dim=1).mean()),
        "folding_percent": folding_percent(ddf),
    }


@pytest.mark.parametrize("options", [{"decollate": False}, {"decollate": True}, {"decollate": False, "batch_size": 3}])
def test_averages_over_the_pairs_of_an_epoch(options, device):
    data = [pair(seed) for seed in range(3)]
    key = {"val_" + name: RegistrationMetric(name, min_voxels=15) for name in METRIC_NAMES[:-1]}
    state = evaluate(data, key, RegistrationMetrics(prefix="more_", min_voxels=15), device=device, **options)
    values = [expected(item) for item in data]
    for name in METRIC_NAMES[:-1]:
        mean = np.mean([v[name] for v in values])
        assert state.metrics["val_" + name] == state.metrics["more_" + name] == pytest.approx(mean, rel=1e-5)
        np.testing.assert_allclose(state.metric_details["val_" + name].flatten(), [v[name] for v in values], rtol=1e-5)
    assert state.best_metric == state.metrics["val_dice"] and "more_loss" not in state.metrics


def test_pairs_without_labels_do_not_count():
    data = [pair(0), pair(1, with_labels=False)]
    state = evaluate(data, {"dice": RegistrationMetric("dice", min_voxels=15)}, decollate=False)
    assert state.metrics["dice"] == pytest.approx(expected(data[0])["dice"])
    assert state.metric_details["dice"].isnan().flatten().tolist() == [False, True]
    state = evaluate(data[1:], {"dice": RegistrationMetric("dice")}, RegistrationMetrics(prefix="all_"), decollate=False)
    assert math.isnan(state.metrics["dice"])
    assert [name for name in state.metrics if name.startswith("all_")] == ["all_folding_percent"]
    state = evaluate(data[1:], {"dice": RegistrationMetric("dice")}, RegistrationMetrics(), decollate=False)
    assert sorted(state.metrics) == ["dice", "folding_percent"]  # the key metric stays


def test_every_epoch_starts_anew():
    metric = RegistrationMetric("folding_percent", save_details=False)
    engine = Engine(lambda engine, ddf: {"pred": {"ddf": ddf}})
    metric.attach(engine, "folding")
    engine.state.batch = {}
    mirrored = -2 * identity_points((4, 4))[None] * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    for ddf, percent in ((mirrored, 100), (torch.zeros(1, 2, 4, 4), 0)):
        engine.state.output = None
        metric.started(engine)
        metric.update([({}, {"pred": {"ddf": ddf[0]}})])
        metric.completed(engine, "folding")
        assert engine.state.metrics["folding"] == percent


class Similarity(torch.nn.Module):
    """A registration loss around ours, which draws a random window in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity = LocalLearnedBasisCRLoss(spatial_dims=2)
        self.frozen = torch.nn.Dropout().eval()

    def forward(self, pred: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return self.similarity(pred["warped_moving"], target)


@pytest.mark.parametrize("decollate", [False, True])
def test_the_loss_is_measured_in_evaluation_mode_and_left_as_it_was(decollate):
    loss, data = Similarity().train(), [pair(0), pair(1)]
    loss.frozen.eval()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    metric = {"loss": RegistrationMetric("loss", loss)}
    evaluator_draws = evaluate(data, metric, decollate=decollate, batch_size=2)
    assert loss.training and loss.similarity.training and not loss.frozen.training
    assert np.array_equal(before[1], np.random.get_state()[1])
    loss.eval()
    images = [item["moving"].as_tensor()[None] for item in data]
    direct = torch.stack([loss({"warped_moving": i}, i.flip(2)) for i in images]).mean().detach()
    assert evaluator_draws.metrics["loss"] == pytest.approx(float(direct), rel=1e-6)
    state = torch.get_rng_state()
    metric["loss"].update([(data[0], {"pred": {"warped_moving": images[0][0], "fixed": images[0][0]}})])
    assert torch.equal(state, torch.get_rng_state())


def test_the_loss_of_the_output_is_used_where_there_is_one():
    metric = RegistrationMetric("loss")
    metric.reset()
    metric.update([({}, {"pred": {}, "loss": torch.tensor(3.0)}), ({}, {"pred": {}, "loss": 1.0}), ({}, {"pred": {}})])
    assert metric.compute() == 2


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="dice"):
        RegistrationMetric("dyce")


def nothing(pred: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """A loss that masks what is not finite, and so is 0 where nothing is."""
    return LocalNCCLoss(2)(pred["warped_moving"], target)


@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize("name", ["dice", "dice_before", "tre_mm", "tre_before_mm", "folding_percent", "loss"])
def test_a_network_that_has_diverged_is_no_good_score(name, share):
    metric = RegistrationMetric(name, nothing if name == "loss" else None)
    metric.reset()
    ddf = torch.where(torch.rand(2, 30, 30) <= share, torch.nan, 0)
    ddf[0, 3, 4] = torch.nan
    image = torch.full((1, 30, 30), torch.nan)
    labels = torch.ones(1, 30, 30)
    batch = {"name": "pair7", "fixed_label": labels, "moving_label": labels}
    with pytest.raises(ValueError, match="pair7 is not finite"):
        metric.update([(batch, {"pred": {"ddf": ddf, "warped_moving": image, "fixed": labels}})])


def test_functions_refuse_a_displacement_that_is_not_finite():
    labels, points, ddf = torch.ones(1, 30, 30), torch.ones(3, 2), torch.full((2, 30, 30), torch.nan)
    grid = Grid((30, 30), np.eye(3))
    for call in (
        lambda: label_dice(labels, labels, ddf),
        lambda: landmark_error(points, points, grid, ddf),
        lambda: folding_percent(ddf),
    ):
        with pytest.raises(ValueError, match="not finite"):
            call()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_not_averaged_away(value):
    metric = RegistrationMetric("loss")
    metric.reset()
    with pytest.raises(ValueError, match=f"pair7 is {value}"):
        metric.update([({"name": "pair7"}, {"pred": {}, "loss": value})])


# --- on two processes


def _worker(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    data = [pair(seed, with_labels=seed != 1) for seed in range(3)][rank::2]  # two pairs and one
    state = evaluate(
        data, {"dice": RegistrationMetric("dice", min_voxels=15)}, RegistrationMetrics(prefix="a_"), decollate=False
    )
    results.put((state.metrics, sorted(state.metric_details["dice"].flatten().tolist())))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="forks, which CUDA does not survive")
def test_two_processes_report_what_one_does(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_worker, args=(r, str(tmp_path / "store"), results)) for r in range(2)]
    for process in processes:
        process.start()
    (first, details), (second, _) = (results.get(timeout=600) for _ in range(2))
    for process in processes:
        process.join(60)
    data = [pair(seed, with_labels=seed != 1) for seed in range(3)]
    metrics = {"dice": RegistrationMetric("dice", min_voxels=15)}
    alone = evaluate(data, metrics, RegistrationMetrics(prefix="a_"), decollate=False).metrics
    assert first == second == alone and len(details) == 3
