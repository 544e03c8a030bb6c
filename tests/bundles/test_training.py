# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Training and evaluation by the bundle: what MONAI asks of it, that it learns, resumes, and refuses bad input at once."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import VoxelMorphUNet
from scipy.ndimage import gaussian_filter

from monai_locor.bundle.checkpoints import BestCheckpoint

from ..forked import run_forked
from ..parameters import mostly_slow, mostly_slow_cases
from .small_bundle import BUNDLE, CONFIGS, NETWORK

TRAIN = str(CONFIGS / "train.json")
EVALUATE = [TRAIN, str(CONFIGS / "evaluate.json")]

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file", "ignore:Using a non-tuple sequence"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def subject(folder: Path, name: str, seed: int, *shape: int) -> dict[str, str]:
    """Two contrasts of a smooth random anatomy, and its labels."""
    anatomy = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    anatomy = anatomy / anatomy.std()
    volumes = {"fixed": np.tanh(anatomy), "moving": np.exp(-(anatomy**2)), "label": (anatomy > 0.3) + (anatomy > 1.0)}
    affine = np.diag([2.0] * len(shape) + [1.0] * (4 - len(shape)))
    for kind, data in volumes.items():
        nib.save(nib.Nifti1Image(data.astype(np.float32), affine), folder / f"{name}_{kind}.nii.gz")
    files = {"fixed": "fixed", "moving": "moving", "fixed_label": "label", "moving_label": "label"}
    return {"name": name, **{key: f"{name}_{kind}.nii.gz" for key, kind in files.items()}}


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("subjects")
    subjects = [subject(folder, f"s{i}", i, 16, 16, 16) for i in range(4)]
    lists = {"training": subjects[:2], "validation": subjects[2:], "testing": subjects[2:]}
    return SimpleNamespace(folder=folder, subjects=subjects, datalist=write(folder / "datalist.json", lists))


def options(files: SimpleNamespace, out: Path, **changes: Any) -> dict[str, Any]:
    """A training of seconds."""
    given = {
        "datalist": files.datalist,
        "ckpt_dir": str(out / "models"),
        "output_dir": str(out / "eval"),
        "tf_dir": "none",  # MONAI drops None
        "device": "cpu",
        "preset": {"preset": "default", "initialization": "world"},
        "alignment": "start",
        "spacing": 2.0,
        "epochs": 1,
        "pairs_per_epoch": 2,
        "network_def": NETWORK,
        "registration_network#divisible": 2,
        **changes,
    }
    return given


def run(config_file: Any = TRAIN, **given: Any) -> None:
    monai.bundle.run(config_file=config_file, logging_file=False, **given)


def refusal(config_file: Any = TRAIN, **given: Any) -> str:
    """What a run with these options ends in: the line on stderr, before it exits with code 2."""
    with pytest.raises(SystemExit) as caught:
        run(config_file, **given)
    message = str(caught.value)
    assert caught.value.code == 2 and message.startswith("error: ") and "\n" not in message
    return message


def workflow(config_file: Any = TRAIN, **given: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(config_file, workflow_type="train", logging_file=False, **given)
    made.initialize()
    return made


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same(one: Any, other: Any) -> None:
    """Bit by bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    else:
        assert one == other


# --- what MONAI's tools ask


@pytest.mark.parametrize("config_file", mostly_slow([TRAIN, EVALUATE]))
def test_properties(tmp_path, config_file):
    made = workflow(config_file, ckpt_dir=str(tmp_path), output_dir=str(tmp_path / "eval"), network_def=NETWORK)
    torch.save({"model": made.network_def.state_dict()}, tmp_path / "model.pt")
    assert made.check_properties() == []  # without data, as the tools do it
    assert made.bundle_root == str(BUNDLE)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_one_network():
    configs = [ConfigParser.load_config_file(CONFIGS / name) for name in ("train.json", "inference.json")]
    definitions = [config["network_def"] for config in configs]
    dims = {"@spatial_dims": configs[0]["spatial_dims"], str(configs[0]["network_def"]["in_channels"]): 8}
    resolved = [{key: dims.get(str(value), value) for key, value in d.items()} for d in definitions]
    assert resolved[0] == resolved[1]


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "model"])
def test_export(tmp_path, key):
    """As the model zoo's checks do it, which give no key, and by name."""
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    network = parser.get_parsed_content("network_def")
    validator = Engine(lambda engine, batch: None)
    best = BestCheckpoint(str(tmp_path / "model.pt"), {"model": network, "loss": torch.nn.Identity()}, validator)
    validator.state.metrics = {"val_loss": 1.0}
    best(validator)
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        key_in_ckpt=key,
    )
    image = torch.rand(1, 8, 16, 16, 32)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image))


def test_only_the_first_process_writes(tmp_path):
    """MONAI drops arguments that are components and None; a path that is None must arrive all the same."""
    for rank, path in ((0, str(tmp_path / "model.pt")), (1, None)):
        made = workflow(ckpt_dir=str(tmp_path), network_def=NETWORK, rank=rank)
        assert made.parser.get_parsed_content("best").path == path
        last = made.parser.get_parsed_content("train::handlers")[-1]
        assert (last.path is None) == (rank > 0)
        assert (made.parser.get_parsed_content("log_dir") is None) == (rank > 0)


# --- training


def test_trains_and_evaluates(files, tmp_path):
    given = options(files, tmp_path, epochs=2, lr=0.01, **{"registration_network#head_std": 1e-2})
    made = workflow(**given)
    parts = made.parser.get_parsed_content("weights")
    before = {name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in parts.items()}
    made.run()
    trainer = made.parser.get_parsed_content("train::trainer")
    assert trainer.state.iteration == 4 and math.isfinite(trainer.state.metrics["train_loss"])
    metrics = made.parser.get_parsed_content("validate::evaluator").state.metrics
    assert {"val_dice", "val_dice_before", "val_folding_percent", "val_loss"} <= metrics.keys()
    assert {p.name for p in (tmp_path / "models").iterdir()} == {"model.pt", "last.pt"}
    last, best = load(tmp_path / "models" / "last.pt"), load(tmp_path / "models" / "model.pt")
    assert best.keys() == {"model", "loss", ""} and last.keys() == {"model", "loss", "optimizer", "schedule", "best", "trainer"}
    for name, state in before.items():
        assert state.keys() == last[name].keys()
        assert all(not torch.equal(value, last[name][key]) for key, value in state.items())  # every parameter has learned
    assert not (tmp_path / "eval").exists()
    evaluation = {**given, "output_dir": str(tmp_path / "scores")}
    run(EVALUATE, **evaluation)
    rows = dict(line.split(",") for line in (tmp_path / "scores" / "metrics.csv").read_text().splitlines())
    assert float(rows["dice"]) == pytest.approx(last["best"]["best"])  # testing has the subjects of validation
    table = (tmp_path / "scores" / "dice_raw.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:3]] == ["s3_to_s2", "s2_to_s3"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_is_the_same_bit_by_bit(files, tmp_path, workers):
    """With augmentation and random windows, and a best score that must not be forgotten."""
    run(**options(files, tmp_path / "whole", epochs=2, num_workers=workers))
    for epochs, resume in ((1, "false"), (2, "true")):  # as the command line hands them over
        run(**options(files, tmp_path / "parts", epochs=epochs, resume=resume, num_workers=workers))
    for name in ("last.pt", "model.pt"):
        whole, parts = (load(tmp_path / run / "models" / name) for run in ("whole", "parts"))
        assert_same(whole, parts)


@pytest.mark.slow
def test_resuming_what_does_not_fit(files, tmp_path):
    given = options(files, tmp_path)
    assert "last.pt: no such file" in refusal(**given, resume=True)
    run(**given)
    assert "1 epochs already; give more with --epochs" in refusal(**given, resume=True)
    message = refusal(**{**given, "epochs": 2, "pairs_per_epoch": 3}, resume=True)
    assert "2 steps in an epoch, here it is 3" in message
    (tmp_path / "models" / "last.pt").write_bytes((tmp_path / "models" / "model.pt").read_bytes())
    assert "resume from a last.pt" in refusal(**given, resume=True)


@pytest.mark.slow
def test_initial_weights(files, tmp_path):
    run(**options(files, tmp_path / "first"))
    weights = str(tmp_path / "first" / "models" / "last.pt")
    run(**options(files, tmp_path / "second", ckpt_path=weights, lr=1e-12, basis_lr=1e-12))
    first, second = (load(tmp_path / run / "models" / "last.pt") for run in ("first", "second"))
    for name in ("model", "loss"):
        for key, value in first[name].items():
            torch.testing.assert_close(second[name][key], value, atol=1e-8, rtol=0)


OTHERS = [
    {"similarity": {"_target_": "GlobalMutualInformationLoss"}},
    {"similarity": "mutual_information", "similarity_options#num_bins": 8},
]


@pytest.mark.slow
@pytest.mark.parametrize("change", OTHERS)
def test_other_similarities(files, tmp_path, change):
    run(**options(files, tmp_path, **change, augment="false"))
    assert load(tmp_path / "models" / "model.pt")["loss"] == {}


@pytest.mark.slow
def test_pairs_without_labels_and_a_cache_on_disk(files, tmp_path):
    bare = [{key: s[key] for key in ("name", "fixed", "moving")} for s in files.subjects]
    given = options(files, tmp_path, datalist=write(files.folder / "bare.json", bare), cache_dir=str(tmp_path / "cache"))
    run(**given, validation_fraction=0.5, pairing="all")
    kept = {p.name for p in (tmp_path / "cache").iterdir()}
    assert len(kept) >= 4 + 1
    assert load(tmp_path / "models" / "last.pt")["best"]["best"] > -math.inf  # the loss decides
    run(**given, validation_fraction=0.5, pairing="all", amp=True)
    assert kept == {p.name for p in (tmp_path / "cache").iterdir()}


def test_augmentation(files, tmp_path):
    """It changes training pairs only, draws anew each time, and keeps an image and its weight together."""
    for augment in ("true", "false"):
        made = workflow(**options(files, tmp_path, augment=augment))
        dataset, still = made.train_dataset, made.val_dataset
        items = [dataset[0] for _ in range(4)]
        assert items[0]["fixed"].shape == (2, 16, 16, 16) and not any("label" in key for key in items[0])
        assert ("fixed_label" in still[0]) and torch.equal(still[0]["fixed"], still[0]["fixed"])
        same = [torch.equal(items[0][key], item[key]) for item in items[1:] for key in ("fixed", "moving")]
        assert all(same) if augment == "false" else not all(same)
        for item in items:
            assert float(item["moving"][:1][item["moving_weight"] == 0].abs().sum()) == 0


@pytest.mark.slow
def test_tensorboard(files, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(**options(files, tmp_path, epochs=2, tf_dir=str(tmp_path / "curves")))
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    assert {"train_loss", "train_similarity", "train_bending", "val_dice", "val_loss"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("val_dice")) == 2 and len(events.Scalars("train_similarity")) == 4
    assert {"registration", "basis/similarity", "basis/inverse_similarity"} <= set(events.Tags()["images"])


@pytest.mark.slow
def test_from_the_command_line_in_another_folder(files, tmp_path):
    shown = ("datalist", "preset", "alignment", "spacing", "epochs", "pairs_per_epoch", "device")
    given = {key: value for key, value in options(files, tmp_path).items() if key in shown}
    given |= {"ckpt_dir": "weights", "tf_dir": "none", "augment": "false", "network_def#channels": [4, 4]}
    given |= {"network_def#final_conv_channels": [4], "network_def#unet_out_channels": 4}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    options_ = [word for key, value in words.items() for word in (f"--{key}", value)]

    def command(*more: str) -> subprocess.CompletedProcess:
        words = ["run", "--config_file", os.path.relpath(TRAIN, tmp_path), *options_, *more]
        return run_forked("monai.bundle", words, tmp_path)

    done = command()
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "weights").iterdir()} == {"model.pt", "last.pt"}
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    done = command("--resume", "true", "--lr", "fast")
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1] == "error: lr must be a positive number, got 'fast'"
    assert "Traceback" not in done.stderr


# --- bad input


def test_mistyped_options(files, tmp_path):
    for typed, meant in (("epoch", "--epochs"), ("section", "--spacing")):
        message = refusal(**options(files, tmp_path, **{typed: 3}))
        assert f"unknown option --{typed}" in message and (typed == "section" or meant in message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "texts"),
    mostly_slow_cases(
        [
            ({"datalist": None}, ["--datalist"]),
            ({"datalist": {"training": [0, "missing"], "validation": [2, 3]}}, ["missing.nii.gz", "no such file"]),
            ({"datalist": {"training": [0, 1], "validation": [2, "flat"]}}, ["flat_fixed.nii.gz", "2-D"]),
            ({"datalist": {"training": [0, 1], "validation": [2, "away"]}}, ["away_label.nii.gz"]),
            ({"datalist": [0, 1]}, ["no list validation", "validation_fraction"]),
            ({"spatial_dims": 2}, ["3-D", "--spatial_dims 3"]),
            ({"seed": 1.5}, ["seed must be a whole number"]),
            ({"bending_weight": -1}, ["loss cannot be made: bending_weight"]),
            ({"similarity": "mutal_information"}, ["one of locor, mutual_information", "mutal_information"]),
            ({"val_interval": 2}, ["val_interval 2 is more than epochs 1"]),
            ({"ckpt_path": "none.pt"}, ["none.pt: no such file"]),
            ({"ckpt_path": "other.pt"}, ["other.pt", "model", "has shape", "network_def"]),
            ({"ckpt_dir": "text.pt"}, ["text.pt", "name another"]),
            ({"datalist": "nowhere.json"}, ["nowhere.json"]),
            ({"datalist": {"training": [0, "thin"], "validation": [2, 3]}}, ["thin_", "one voxel"]),
            ({"datalist": {"training": [0, 1], "validation": [2]}}, ["one subject for validation", "across"]),
            ({"datalist": [0, 1], "validation_fraction": 0.1}, ["validation_fraction", "none for validation"]),
            ({"spacing": "x"}, ["spacing must be a positive number, got 'x'"]),
            ({"epochs": 0}, ["epochs must be a whole number, 1 or more, got 0"]),
            ({"lr": -1}, ["lr must be a positive number"]),
            ({"similarity_options#num_basis": 0}, ["similarity_options of locor", "basis functions must be positive"]),
            ({"similarity": "srwcr", "similarity_options": {"bins": 3}}, ["bins; srwcr has num_bins"]),
            ({"pairing": "acros"}, ["pairing", "acros"]),
            ({"augment": "perhaps"}, ["true or false", "perhaps"]),
            ({"device": "cpi"}, ["device cpi"]),
            ({"ckpt_path": "text.pt"}, ["text.pt: cannot be read"]),
        ],
        9,
    ),
)
def test_bad_input(files, tmp_path, change, texts):
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    given = {key: str(work / value) if str(value).endswith(".pt") else value for key, value in change.items()}
    if isinstance(change.get("datalist"), (dict, list)):
        given["datalist"] = write(files.folder / "bad.json", _filled(files, change["datalist"]))
    (work / "text.pt").write_text("not weights")
    torch.save({"model": VoxelMorphUNet(3, 2, 4, (8, 8), (4,)).state_dict(), "loss": {}}, work / "other.pt")
    message = refusal(**options(files, out, **given))
    assert all(text in message for text in texts), message
    assert not out.exists() and {p.name for p in work.iterdir()} == {"text.pt", "other.pt"}


def _filled(files: SimpleNamespace, lists: Any) -> Any:
    """Numbers are subjects, words are subjects that will not do."""
    if isinstance(lists, dict):
        return {key: _filled(files, value) for key, value in lists.items()}
    return [files.subjects[item] if isinstance(item, int) else _wrong(files, item) for item in lists]


def _wrong(files: SimpleNamespace, name: str) -> dict[str, str]:
    if name == "missing":
        return {"name": name, "fixed": "missing.nii.gz", "moving": "missing.nii.gz"}
    shape = {"flat": (16, 16), "thin": (16, 1, 16)}.get(name, (16, 16, 16))
    made = subject(files.folder, name, 9, *shape)
    if name == "away":
        path = files.folder / f"{name}_label.nii.gz"
        image = nib.load(path)
        affine = image.affine.copy()
        affine[0, 3] += 900
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), affine), path)
    return made
