# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What `make zoo` assembles passes its checks, and each check notices a spoiled copy."""

from __future__ import annotations

import json
from pathlib import Path

import _zoo_checks as checks
import jsonschema
import pytest
import yaml
from _zoo_folders import FILES, NAME, Folders, assemble, front_matter

from monai_locor import __version__

REPO = f"somebody/{NAME}"


@pytest.fixture
def folders(tmp_path) -> Folders:
    """The assembled folders."""
    made = Folders(tmp_path / "zoo", REPO)
    assemble(made)
    return made


def found(folders: Folders) -> dict[str, list[str]]:
    """Names of the checks that found something, with what they found."""
    results = {check.__name__: list(check(folders)) for check in checks.CHECKS}
    return {name: texts for name, texts in results.items() if texts}


def edit(path: Path, **changes) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_assembled_folders_are_good(folders):
    assert found(folders) == {}
    assert {path.name for path in folders.root.iterdir()} == {"pull_request", "light_pull_request", "huggingface"}
    assert not (folders.bundle / "large_files.yml").exists()  # the weights are small
    assert f"pip install 'monai-locor[bundle]=={__version__}'" in (folders.hub / "README.md").read_text()
    names = {path.relative_to(folders.bundle) for path in folders.bundle.rglob("*")}
    assert names | {Path("README.md")} == {path.relative_to(folders.hub) for path in folders.hub.rglob("*")}


def test_large_files_are_listed_and_left_out(tmp_path):
    folders = Folders(tmp_path / "zoo", REPO)
    assemble(folders, large=100_000)
    assert found(folders) == {} and not (folders.bundle / "models" / "model.pt").exists()
    (entry,) = checks.large_entries(folders)
    version = folders.metadata["version"]
    assert entry["url"] == f"https://huggingface.co/{REPO}/resolve/{version}/models/model.pt"
    for old, new in ((entry["hash_val"], "0" * 64), (f"/resolve/{version}/", "/resolve/main/")):
        assemble(folders, large=100_000)
        replace(folders.bundle / "large_files.yml", old, new)
        assert set(found(folders)) == {"large_files"}


def test_the_wheel_is_offered_from_the_hub(tmp_path):
    wheel = tmp_path / f"monai_locor-{__version__}-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    folders = Folders(tmp_path / "zoo", REPO)
    assemble(folders, wheel)
    assert found(folders) == {} and not (folders.bundle / wheel.name).exists()
    address = f"https://huggingface.co/{REPO}/resolve/{folders.metadata['version']}/{wheel.name}"
    assert f"pip install 'monai-locor[bundle] @ {address}'" in (folders.hub / "README.md").read_text()
    assemble(folders, wheel.rename(tmp_path / "monai_locor-9.9.9-py3-none-any.whl"))
    assert set(found(folders)) == {"versions"}


def test_existing_folders_are_replaced(folders):
    left = folders.hub / "eval" / "old.nii.gz"
    left.parent.mkdir()
    left.write_bytes(b"")
    assert set(found(folders)) == {"files"}
    assemble(folders)
    assert found(folders) == {} and not left.exists()


SPOILED = {
    "license missing": ("files", lambda f: (f.bundle / "LICENSE").unlink()),
    "weights missing": ("files", lambda f: (f.bundle / "models" / "model.pt").unlink()),
    "an image": ("files", lambda f: (f.hub / "docs" / "head.nii.gz").write_bytes(b"")),
    "a large file": ("sizes", lambda f: (f.bundle / "models" / "more.pt").write_bytes(bytes(26_000_000))),
    "unknown key": ("metadata", lambda f: edit(f.bundle / "configs" / "metadata.json", optional_packages_version={})),
    "key missing": ("metadata", lambda f: edit(f.bundle / "configs" / "metadata.json", task=None)),
    "not in the changelog": ("metadata", lambda f: edit(f.bundle / "configs" / "metadata.json", version="9.9.9")),
    "another repository": ("metadata", lambda f: edit(f.light / "metadata.json", huggingface_url="https://huggingface.co/a/b")),
    "version": ("versions", lambda f: edit(f.bundle / "configs" / "metadata.json", monai_version="1.0.0")),
    "another license": ("licenses", lambda f: (f.light / "LICENSE").write_text("MIT License")),
    "terms of the images": ("licenses", lambda f: replace(f.hub / "docs" / "data_license.txt", "Analysis, Dep", "A., Dep")),
    "checksum": ("data_statement", lambda f: edit(f.hub / "docs" / "weights.json", sha256="0" * 64)),
    "license of images": (
        "data_statement",
        lambda f: edit(f.hub / "docs" / "weights.json", data=[{"name": "NiChart", "license": "GPL-2.0-or-later"}]),
    ),
    "link": ("links", lambda f: replace(f.hub / "README.md", "(docs/code_in_configs.json)", "(code_in_configs.json)")),
    "anchor": ("links", lambda f: replace(f.bundle / "docs" / "README.md", "(#performance)", "(#results)")),
    "field of the card": ("cards", lambda f: replace(f.hub / "README.md", "library_name: monai", "library_name: monia")),
    "card without header": ("cards", lambda f: replace(f.light / "README.md", "---\nlicense", "license")),
    "folder of a machine": (
        "private_paths",
        lambda f: replace(f.hub / "configs" / "train.json", '"cache_dir": null', '"cache_dir": "/home/me"'),
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_copy_is_noticed(folders, name):
    check, spoil = SPOILED[name]
    spoil(folders)
    assert check in found(folders)


def test_every_check_of_files_is_tried():
    tried = {check for check, _ in SPOILED.values()} | {"large_files"}
    assert tried == {check.__name__ for check in checks.CHECKS}


def test_schemas_are_valid():
    for path in FILES.glob("*.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_our_schema_asks_what_the_zoo_asks(shared):
    theirs = json.loads((shared / "schemas" / "meta_schema_20240725.json").read_text())
    ours = json.loads((FILES / "bundle.schema.json").read_text())
    assert {*theirs["required"]} <= {*ours["required"]}
    assert {*theirs["$defs"]["tensor"]["required"]} == {*ours["$defs"]["tensor"]["required"]}


def test_header_of_the_card():
    assert yaml.safe_load(front_matter().strip().strip("-"))["library_name"] == "monai"
