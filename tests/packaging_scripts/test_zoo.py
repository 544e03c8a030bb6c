# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""`make zoo` as a whole, and the upload, which nothing here ever does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import _zoo_network as network
import pytest
import torch
import upload_bundle
import zoo
from _zoo_folders import NAME, Folders, assemble
from _zoo_install import requirements

from ..forked import run_forked

ROOT = Path(__file__).resolve().parents[2]
REPO = f"somebody/{NAME}"


@pytest.fixture
def folders(tmp_path) -> Folders:
    """The assembled folders."""
    made = Folders(tmp_path / "zoo", REPO)
    assemble(made)
    return made


class Hub:
    """Records what is asked of the Hub."""

    def __init__(self, *tags: str) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.tags = [SimpleNamespace(name=tag) for tag in tags]

    def list_repo_refs(self, repo_id: str) -> SimpleNamespace:
        assert repo_id == REPO
        return SimpleNamespace(tags=self.tags)

    def __getattr__(self, name: str):
        return lambda **options: self.calls.append((name, options))


def script(path: Path, *words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return run_forked(str(path), [str(word) for word in words], cwd)


def test_upload(folders):
    hub = Hub("0.1.0")
    version = folders.metadata["version"]
    assert upload_bundle.upload(folders, False, hub) == f"https://huggingface.co/{REPO}/tree/{version}"
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder", "create_tag"]
    assert hub.calls[1][1]["folder_path"] == str(folders.hub) and hub.calls[2][1]["tag"] == version
    assert all(options["repo_id"] == REPO for _, options in hub.calls)


def test_a_published_version_is_not_replaced(folders):
    hub = Hub(folders.metadata["version"])
    with pytest.raises(SystemExit, match="has a version"):
        upload_bundle.upload(folders, False, hub)
    assert [name for name, _ in hub.calls] == ["create_repo"]


def test_what_was_changed_since_is_not_uploaded(folders):
    assert upload_bundle.problems(folders) == []
    (folders.hub / "LICENSE").unlink()
    assert any("LICENSE is missing" in text for text in upload_bundle.problems(folders))
    assert "make zoo" in upload_bundle.problems(Folders(folders.root / "none", REPO))[0]


def test_requirements_are_those_of_the_metadata(folders):
    found = requirements(folders)
    assert {text.split("==")[0] for text in found} >= {"monai", "torch", "numpy", "monai-locor", "pytorch-ignite", "fire"}


def test_damaged_weights_are_noticed(folders):
    assert list(network.weights(folders)) == []
    path = folders.hub / "models" / "model.pt"
    saved = torch.load(path, weights_only=True)
    next(iter(saved["model"].values())).fill_(torch.nan)
    torch.save(saved, path)
    assert "not finite" in next(network.weights(folders))
    del saved["loss"]
    torch.save(saved, path)
    assert "loss" in list(network.weights(folders))[-1]
    path.write_bytes(b"no weights")
    assert str(path) in next(network.weights(folders))


def test_wrong_channels_are_noticed(folders):
    path = folders.hub / "configs" / "metadata.json"
    assert list(network.shapes(folders)) == []
    path.write_text(path.read_text().replace('"num_channels": 8', '"num_channels": 2'))
    assert str(path) in next(network.shapes(folders))


def test_the_zoos_schema_is_applied(folders, shared):
    schema = shared / "schemas" / "meta_schema_20240725.json"
    path = folders.hub / "configs" / "metadata.json"
    assert list(network.official_schema(folders, schema)) == []
    path.write_text(path.read_text().replace('"task":', '"tusk":'))
    assert "task" in next(network.official_schema(folders, schema))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repo", "nobody"], "--repo must be OWNER/NAME, got 'nobody'"),
        (["--schema", "none.json"], "none.json: no such file"),
        (["--wheel", "none.whl"], "none.whl: no such file"),
        (["--install"], "--install needs --wheel"),
    ],
)
def test_unknown_files_and_names_are_refused(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--output", str(tmp_path / "zoo"), *words])
    with pytest.raises(SystemExit) as caught:
        zoo.main()
    assert caught.value.code == 2 and told in capsys.readouterr().err and not (tmp_path / "zoo").exists()


@pytest.mark.slow
def test_the_command(tmp_path):
    out = tmp_path / "zoo"
    done = script(ROOT / "packaging" / "zoo.py", "--output", out, "--repo", REPO, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ok")]
    assert len(lines) == 15 and "FAILED" not in done.stdout
    assert "upload_bundle.py" in done.stdout and "left out: the zoo's own schema" in done.stdout
    again = script(ROOT / "packaging" / "upload_bundle.py", out, "--repo", REPO, "--dry-run", cwd=tmp_path)
    assert again.returncode == 0 and "models/model.pt" in again.stdout and "uploaded" not in again.stdout
    other = script(ROOT / "packaging" / "upload_bundle.py", out, "--repo", "else/where", "--dry-run", cwd=tmp_path)
    assert other.returncode == 1 and "huggingface_url" in other.stderr


@pytest.mark.slow
def test_the_unit_test_for_the_zoo_runs(folders, tmp_path):
    done = script(folders.unit_test, cwd=tmp_path)  # finds the bundle beside itself, as in the zoo's repository
    assert done.returncode == 0 and "Ran 2 tests" in done.stderr, done.stderr[-2000:]
    assert all(path.name in ("zoo",) for path in tmp_path.iterdir())
