# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The bundle: what MONAI's tools ask of it, runs from anywhere, and bad input that ends in one line with nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from scipy.ndimage import gaussian_filter

from monai_locor import __version__
from monai_locor.bundle import checked_weights

from ..forked import run_forked
from ..parameters import mostly_slow_cases
from ..run_schema import valid_run

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "locor_registration"
CONFIG = str(BUNDLE / "configs" / "inference.json")
META = BUNDLE / "configs" / "metadata.json"
OUTPUTS = {
    "warped.nii.gz",
    "forward_field.nii.gz",
    "inverse_field.nii.gz",
    "affine.tfm",
    "error.nii.gz",
    "run.json",
    "report.html",
}
SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file", "ignore:Using a non-tuple sequence")


def image(path: Path, *shape: int, seed: int = 0, shift: float = 0.0, kind: str = "") -> str:
    data = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3).astype(np.float32)
    if kind == "constant":
        data[:] = 7
    if kind == "nan":
        data[3:] = np.nan
    affine = np.diag([2.0, 2, 2.5, 1])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("images")
    made = {
        "fixed": image(folder / "fixed.nii.gz", 24, 24, 24),
        "moving": image(folder / "moving.nii.gz", 22, 24, 20, seed=1),
        "four": image(folder / "four.nii.gz", 8, 8, 8, 3),
        "constant": image(folder / "constant.nii.gz", 8, 8, 8, kind="constant"),
        "nan": image(folder / "nan.nii.gz", 8, 8, 8, kind="nan"),
        "far": image(folder / "far.nii.gz", 24, 24, 24, shift=900),
        "flat": image(folder / "flat.nii.gz", 24, 24),
    }
    preset = folder / "preset.json"
    stages = [{"factor": 2, "iterations": 2}, {"factor": 2, "iterations": 4, "spacing": 8}]
    preset.write_text(json.dumps({"stages": stages, "multistart": "never", "intersubject": "never"}))
    world = folder / "world.json"
    world.write_text('{"initialization": "world"}')
    datalist = folder / "pairs.json"
    second = {"fixed": "moving.nii.gz", "moving": "far.nii.gz", "name": "second"}
    datalist.write_text(json.dumps({"testing": [{"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}, second]}))
    broken = folder / "broken.json"
    broken.write_text(json.dumps([json.loads(datalist.read_text())["testing"][0], {**second, "moving": "constant.nii.gz"}]))
    return SimpleNamespace(
        folder=folder, preset=str(preset), world=str(world), datalist=str(datalist), broken=str(broken), **made
    )


def run(**options) -> None:
    monai.bundle.run(config_file=options.pop("config_file", CONFIG), logging_file=False, **{"device": "cpu", **options})


def refusal(**options) -> str:
    """What a run with these options ends in: the line on stderr, before it exits with code 2."""
    with pytest.raises(SystemExit) as caught:
        run(**options)
    message = str(caught.value)
    assert caught.value.code == 2 and message.startswith("error: ") and "\n" not in message
    return message


def workflow(**options) -> ConfigWorkflow:
    made = ConfigWorkflow(options.pop("config_file", CONFIG), workflow_type="infer", logging_file=False, **options)
    made.initialize()
    return made


# --- what MONAI's tools ask


def test_metadata(shared, tmp_path):
    schema = tmp_path / "schema.json"
    shutil.copy(shared / "schemas" / "meta_schema_20240725.json", schema)
    monai.bundle.verify_metadata(meta_file=str(META), filepath=str(schema), hash_val=SCHEMA_MD5, hash_type="md5")


def test_metadata_agrees_with_the_package():
    meta = json.loads(META.read_text())
    assert meta["version"] in meta["changelog"]
    assert meta["required_packages_version"]["monai-locor"] == __version__
    pinned = dict(
        line.split(";")[0].strip().split("==") for line in (BUNDLE.parents[1] / "constraints.txt").open() if "==" in line
    )
    needed = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    for name, version in {**meta["required_packages_version"], **needed}.items():
        assert name == "monai-locor" or pinned[name] == version
    assert (BUNDLE / "LICENSE").read_text() == (BUNDLE.parents[1] / "LICENSE").read_text()
    assert not (BUNDLE / "scripts").exists()


def test_properties(files, tmp_path):
    assert workflow().check_properties() == []  # without data, as the tools do it
    made = workflow(fixed=files.fixed, moving=files.moving, output_dir=str(tmp_path / "out"), device="cpu")
    assert made.check_properties() == []
    assert made.bundle_root == str(BUNDLE)
    assert made.dataset[0]["fixed"].shape == (1, 24, 24, 24)
    assert not (tmp_path / "out").exists()


def test_network():
    monai.bundle.verify_net_in_out("network_def", meta_file=str(META), config_file=CONFIG, device="cpu", p=1, n=2, any=16)


def test_the_shipped_weights_fit():
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    parts = {"model": parser.get_parsed_content("network_def"), "loss": parser.get_parsed_content("loss")}
    before = {name: [p.clone() for p in module.parameters()] for name, module in parts.items()}
    path = BUNDLE / "models" / "model.pt"
    assert checked_weights(path, parts) == parts and path.stat().st_size < 10e6
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {*parts, ""}
    for name, module in parts.items():
        module.load_state_dict(saved[name])
        assert all(not torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True))
    assert all(torch.equal(saved[""][k], v) for k, v in saved["model"].items())


# --- runs


@pytest.mark.slow
def test_datalist_from_the_command_line_in_another_folder(files, tmp_path):
    done = command("--datalist", files.datalist, "--output_dir", "out", "--preset", files.preset, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "verdict FAIL of 2 of 2" in done.stderr.strip().splitlines()[-1] and "verdict: FAIL" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"fixed_to_moving", "second", "summary.csv"}
    for name, grid in (("fixed_to_moving", (24, 24, 24)), ("second", (22, 24, 20))):
        folder = tmp_path / "out" / name
        assert {p.name for p in folder.iterdir()} == OUTPUTS
        assert nib.load(folder / "warped.nii.gz").shape == grid
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_one_pair(files, tmp_path):
    options = dict(
        fixed="fixed.nii.gz",
        moving=files.moving,
        dataset_dir=str(files.folder),
        fixed_mask=image(tmp_path / "mask.nii.gz", 20, 20, 20, kind="constant"),
        preset=files.preset,
        output_dir=str(tmp_path / "new" / "out"),
        seed=5,
        **{"inferer#num_iterations": 3},
    )
    with pytest.raises(SystemExit, match=r"^verdict FAIL of 1 of 1 registrations, which are written: out \("):
        run(**options)  # of white noise, in five steps
    folder = tmp_path / "new" / "out"
    assert {p.name for p in folder.iterdir()} == OUTPUTS
    report = valid_run(folder / "run.json")
    assert report["seed"] == 5 and report["device"] == "cpu"
    assert [len(stage["loss"]) for stage in report["stages"]] == [2, 3]
    assert report["inputs"]["moving"] == files.moving and report["inputs"]["fixed_mask"].endswith("mask.nii.gz")


def test_from_the_network(files, tmp_path):
    deformable = tmp_path / "deformable.json"
    deformable.write_text('{"stages": [{"factor": 2, "iterations": 4, "spacing": 8}], "multistart": "never"}')
    options = {"fixed": files.fixed, "moving": files.moving, "preset": str(deformable), "output_dir": str(tmp_path / "out")}
    options |= {"network_spacing": 2.0}
    weights = tmp_path / "model.pt"
    message = refusal(**options, use_network=True, ckpt_path=str(weights))
    assert str(weights) in message and "--ckpt_path" in message
    network = workflow().network_def
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.net[1].final_conv_out.conv.bias[:] = torch.tensor(
            [0.0, 0.0, 0.5]
        )  # half a voxel of twice 2 mm along the last axis
    torch.save({"model": network.state_dict()}, weights)
    made = workflow(**options, use_network=True, ckpt_path=str(weights), device="cpu", **{"inferer#num_iterations": 0})
    made.parser["handlers"].pop()  # the one that writes
    made.initialize()
    made.run()
    (result,) = made.evaluator.state.output["pred"]
    inside = result.forward_ddf[:, 8:-8, 8:-8, 8:-8]
    expected = torch.tensor([0.0, 0, 0.5 * 2 * 2.0 / 2.5]).view(3, 1, 1, 1).expand_as(inside)
    torch.testing.assert_close(inside, expected, atol=0.01, rtol=0)


# --- options that nothing knows


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("inferer#num_iteratons", "--inferer#num_iterations"),
        ("inferer::num_iteratons", "--inferer#num_iterations"),
        ("evaluator#amb", "--evaluator#amp"),  # a parameter of the target that the file does not name
        ("handlers#1#output_dr", "--handlers#1#output_dir"),
    ],
)
def test_mistyped_options(files, tmp_path, typed, meant):
    message = refusal(fixed=files.fixed, moving=files.moving, output_dir=str(tmp_path / "out"), **{typed: 3})
    assert message == f"error: unknown option --{typed.replace('::', '#')}, the closest known one is {meant}"
    assert not (tmp_path / "out").exists()


def test_options_that_are_known(tmp_path):
    workflow(
        fixed="a",
        preset={"preset": "default", "num_basis": 3},
        inferer={"_target_": "monai_locor.inferers.InstanceOptimizationInferer", "num_iterations": 3, "_desc_": "mine"},
        **{"evaluator#amp": True, "handlers#0#_disabled_": True, "network_def::dropout": 0.1, "dataloader#num_workers": 0},
    )
    workflow(tracking="mlflow", save_execute_config=False, tracking_uri="here", experiment_name="e", output_dir=str(tmp_path))
    more = tmp_path / "more.json"
    more.write_text('{"steps": "$2 + 2", "inferer#num_iterations": "@steps"}')
    assert workflow(config_file=[CONFIG, str(more)], meta_file=str(META)).inferer.config.with_iterations(4).stages
    more.write_text('{"sed": 3}')
    with pytest.raises(SystemExit, match="unknown option --sed, the closest known one is --seed"):
        workflow(config_file=[CONFIG, str(more)], meta_file=str(META))


def test_the_kind_of_transform():
    assert workflow(transform="rigid").inferer.config.transform == "rigid"
    assert workflow(preset={"transform": "affine"}).inferer.config.transform == "affine"
    assert workflow().inferer.config.transform == "deformable"


@pytest.mark.slow
def test_another_measure():
    preset = {"preset": "fast", "similarity": "srwcr", "similarity_options": {"spacing": 5}}
    assert workflow(preset=preset).inferer.config.similarity_options == {"spacing": 5}
    assert workflow(preset={"preset": "fast", "stages.5.iterations": 3}).inferer.config.stages[5].iterations == 3
    inferer = workflow(preset=preset, similarity="mutual_information", **{"similarity_options#num_bins": 8}).inferer
    assert (inferer.config.similarity, inferer.config.similarity_options) == ("mutual_information", {"num_bins": 8})
    own = workflow(similarity={"_target_": "GlobalMutualInformationLoss"}).inferer
    assert own.config.similarity == "custom" and type(own.similarity).__name__ == "GlobalMutualInformationLoss"
    trained = [workflow(**options).parser.get_parsed_content("loss") for options in ({"network_similarity": "mind_ssc"}, {})]
    assert [len(loss.state_dict()) for loss in trained] == [0, 12]


def test_network_and_loss_are_moved_to_the_device():
    parser = workflow(device="$torch.device('meta')").parser
    for part in ("network", "loss"):
        parameters = list(parser.get_parsed_content(part).parameters())
        assert parameters and all(p.device.type == "meta" for p in parameters)
    assert parser.get_parsed_content("inferer").loss is parser.get_parsed_content("loss")


# --- bad input


@pytest.mark.parametrize(
    ("change", "texts"),
    mostly_slow_cases(
        [
            ({"fixed": None, "moving": None}, ["--fixed and --moving, or --datalist"]),
            ({"fixed": "none.nii.gz"}, ["none.nii.gz", "no such file", "check the path"]),
            ({"moving": "four"}, ["four.nii.gz", "3 channels or frames", "choose one"]),
            ({"moving": "constant"}, ["constant.nii.gz", "every voxel is 7", "check the file"]),
            ({"moving": "far", "preset": "world"}, ["far.nii.gz", "share only", "centers"]),
            ({"moving_mask": "nan"}, ["nan.nii.gz", "mask"]),
            ({"datalist": "broken"}, ["datalist", "one or the other"]),
            ({"fixed": None, "moving": None, "datalist": "broken"}, ["constant.nii.gz"]),  # the second pair, before the first
            ({"similarity": "mutal_information"}, ["similarity must be one of locor, mutual_information", "mutal_information"]),
            ({"moving": None}, ["no moving image"]),
            ({"moving": "nan"}, ["nan.nii.gz", "NaN", "check how it was made"]),
            ({"moving": "flat"}, ["flat.nii.gz", "both must be 2-D or both 3-D"]),
            ({"preset": "fst"}, ["fst", "preset"]),
            ({"seed": "x"}, ["seed", "'x'"]),
            ({"device": "cpi"}, ["device cpi", "try cpu"]),
            ({"inferer#num_iterations": -1}, ["num_iterations", "-1"]),
        ],
        8,
    ),
)
def test_bad_input(files, tmp_path, change, texts):
    options = {"fixed": "fixed", "moving": "moving", "preset": "preset", "output_dir": str(tmp_path / "out"), **change}
    options = {key: getattr(files, str(value), value) for key, value in options.items() if value is not None}
    message = refusal(**options)
    assert all(text in message for text in texts), message
    assert list(tmp_path.iterdir()) == []


def test_output_in_the_way(files, tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below"):
        message = refusal(fixed=files.fixed, moving=files.moving, output_dir=str(tmp_path / name))
        assert str(tmp_path / name) in message and "name another" in message
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moving", "more", "told"),
    [
        ("constant", (), None),
        ("moving", ("--inferer#num_iteratons", "3"), "--inferer#num_iterations"),
    ],
)
def test_errors_on_the_command_line(files, tmp_path, moving, more, told):
    path = getattr(files, moving)
    done = command("--fixed", files.fixed, "--output_dir", "out", "--moving", path, *more, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and (told or path) in last and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def command(*options: str, cwd: Path) -> subprocess.CompletedProcess:
    return run_forked("monai.bundle", ["run", "--config_file", CONFIG, "--device", "cpu", *options], cwd)
