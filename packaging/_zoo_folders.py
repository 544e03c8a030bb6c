# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Assemble what the model zoo and the Hugging Face Hub take: the bundle, its model card, and a short entry that links to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release import ROOT, version

NAME = "locor_registration"
BUNDLE = ROOT / "bundles" / NAME
FILES = Path(__file__).resolve().parent / "zoo_files"
HUB = "https://huggingface.co"
LARGE = 25_000_000  # bytes; the zoo takes no larger file in a pull request
LARGE_FILES = "large_files.yml"
SKIPPED = ("eval", "__pycache__", ".*")  # outputs of runs
LIGHT_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_hf_20250321.json"
BUNDLE_ONLY = ("network_data_format",)  # keys of the bundle's metadata that a model without the bundle's API does not have
CARD = {
    "license": "apache-2.0",
    "library_name": "monai",
    "pipeline_tag": "image-to-image",
    "tags": ["monai", "medical", "image-registration", "deformable-registration", "multimodal", "mri", "ct"],
}


@dataclass(frozen=True)
class Folders:
    """The assembled folders.

    Args:
        root: folder that contains them.
        repo: ``OWNER/NAME`` of the repository on the Hub.
    """

    root: Path
    repo: str

    @property
    def bundle(self) -> Path:
        """The bundle in a pull request to the zoo."""
        return self.root / "pull_request" / "models" / NAME

    @property
    def unit_test(self) -> Path:
        """The unit test in the same pull request."""
        return self.root / "pull_request" / "ci" / "unit_tests" / f"test_{NAME}.py"

    @property
    def hub(self) -> Path:
        """The repository on the Hub."""
        return self.root / "huggingface"

    @property
    def light(self) -> Path:
        """The entry in a pull request that only links to the Hub."""
        return self.root / "light_pull_request" / "hf_models" / NAME

    @property
    def url(self) -> str:
        """Address on the Hub."""
        return f"{HUB}/{self.repo}"

    @property
    def metadata(self) -> dict[str, Any]:
        """The bundle's metadata as assembled."""
        return read_json(self.hub / "configs" / "metadata.json")


def assemble(folders: Folders, wheel: Path | None = None, source: Path = BUNDLE, large: int = LARGE) -> None:
    """Write the folders; existing ones are replaced.

    Args:
        folders: where.
        wheel: this package, to be installed from the Hub; None if an index has it.
        source: the bundle.
        large: files with more bytes are left out of the pull request and listed in its ``large_files.yml``.
    """
    shutil.rmtree(folders.root, ignore_errors=True)
    shutil.copytree(source, folders.hub, ignore=shutil.ignore_patterns(*SKIPPED))
    meta_file = folders.hub / "configs" / "metadata.json"
    meta = read_json(meta_file) | {"huggingface_url": folders.url}
    _write_json(meta_file, meta)
    shutil.copytree(folders.hub, folders.bundle)
    if wheel is not None:
        shutil.copy(wheel, folders.hub)
    _leave_out_large_files(folders, str(meta["version"]), large)
    (folders.hub / "README.md").write_text(model_card(folders, meta), encoding="utf-8")
    folders.unit_test.parent.mkdir(parents=True)
    shutil.copy(FILES / folders.unit_test.name, folders.unit_test)
    _assemble_light(folders, meta)


def model_card(folders: Folders, meta: dict[str, Any]) -> str:
    """The README of the repository on the Hub: header, how to get the bundle, then the bundle's own README."""
    readme = (folders.hub / "docs" / "README.md").read_text(encoding="utf-8").replace("](code_in_", "](docs/code_in_")
    title, _, body = readme.partition("\n")
    return f"{front_matter()}\n{title}\n\n{_how_to_get(folders, meta)}{body}"


def front_matter() -> str:
    """The YAML header of a model card."""
    lines = [f"{key}: {value}" if isinstance(value, str) else f"{key}:" for key, value in CARD.items()]
    tags = [f"- {tag}" for tag in CARD["tags"]]
    return "\n".join(["---", *lines, *tags, "---", ""])  # the tags are the last key


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def address_of(folders: Folders, path: str, tag: str) -> str:
    """Address from which a file of the repository on the Hub is downloaded."""
    return f"{folders.url}/resolve/{tag}/{path}"


def _how_to_get(folders: Folders, meta: dict[str, Any]) -> str:
    tag = str(meta["version"])
    wheels = [f" @ {address_of(folders, path.name, tag)}" for path in folders.hub.glob("*.whl")]
    return f"""A MONAI bundle, version {tag}. Install the package, then download and run the bundle:

```bash
pip install 'monai-locor[bundle]{wheels[0] if wheels else f"=={version()}"}' huggingface_hub
python -m monai.bundle download --name {NAME} --source huggingface_hub --repo {folders.repo} --version {tag} --bundle_dir .
python -m monai.bundle run --config_file {NAME}/configs/inference.json \\
    --fixed fixed.nii.gz --moving moving.nii.gz --output_dir out
```

`monai.bundle.load("{NAME}", bundle_dir=".", workflow_type="inference", key_in_ckpt="model")` returns the network with its
weights.
"""


def _leave_out_large_files(folders: Folders, tag: str, large: int) -> None:
    """Replace the large files of the pull request by their addresses on the Hub and checksums."""
    entries = []
    for path in sorted(folders.bundle.rglob("*")):
        if path.is_file() and path.stat().st_size > large:
            name = path.relative_to(folders.bundle).as_posix()
            entries.append(
                f'  - path: "{name}"\n    url: "{address_of(folders, name, tag)}"\n'
                f'    hash_val: "{sha256(path)}"\n    hash_type: "sha256"\n'
            )
            path.unlink()
    if entries:
        (folders.bundle / LARGE_FILES).write_text("large_files:\n" + "".join(entries), encoding="utf-8")


def _assemble_light(folders: Folders, meta: dict[str, Any]) -> None:
    """Write license, metadata and card of the entry that links to the Hub."""
    folders.light.mkdir(parents=True)
    shutil.copy(folders.hub / "LICENSE", folders.light / "LICENSE")
    own = {key: value for key, value in meta.items() if key not in BUNDLE_ONLY}
    _write_json(folders.light / "metadata.json", own | {"schema": LIGHT_SCHEMA, "huggingface_model_id": folders.repo})
    text = f"""{front_matter()}
# {meta["name"]}

{meta["description"]}

The bundle, its weights and its documentation: [{folders.repo}]({folders.url}).

{_how_to_get(folders, meta)}
Intended use: {meta["intended_use"]} Data: {meta["data_source"]}.

License: Apache-2.0, see `LICENSE`.
"""
    (folders.light / "README.md").write_text(text, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
