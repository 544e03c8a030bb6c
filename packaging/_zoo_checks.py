# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of the assembled folders that read files only. Each returns the problems it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from _zoo_folders import FILES, LARGE, LARGE_FILES, Folders, address_of, read_json, sha256
from release import ROOT, version

COMMON = ("LICENSE", "configs/metadata.json", "configs/inference.json", "configs/logging.conf")
DOCUMENTS = ("docs/README.md", "docs/data_license.txt", "docs/weights.json")
WEIGHTS = "models/model.pt"
SUFFIXES = {"", ".conf", ".json", ".md", ".pt", ".py", ".txt", ".whl", ".yml"}  # an image is a mistake
TEXTS = SUFFIXES - {".pt", ".whl"}
PRIVATE = re.compile(r"(?<![\w.])(?:/(?:home|root|work|mnt|opt|Users|tmp)/|[A-Z]:\\)")
PINNED = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
# The words that the license of the images asks for, and the licenses under which weights may be passed on.
SBIA_WORDS = "have been obtained under license from the Section of Biomedical Image Analysis"
ALLOWED_DATA = {"CC-BY-4.0", "MIT", "BSD-2-Clause", "LicenseRef-SBIA"}


def files(folders: Folders) -> Iterator[str]:
    """Everything that must be there is there, and nothing else."""
    needed = {
        folders.bundle: (*COMMON, *DOCUMENTS),
        folders.hub: (*COMMON, *DOCUMENTS, WEIGHTS, "README.md"),
        folders.light: ("README.md", "LICENSE", "metadata.json"),
        folders.unit_test.parent: (folders.unit_test.name,),
    }
    for folder, names in needed.items():
        yield from (f"{folder / name} is missing" for name in names if not (folder / name).is_file())
    listed = [entry["path"] for entry in large_entries(folders)]
    if not (folders.bundle / WEIGHTS).is_file() and WEIGHTS not in listed:
        yield f"{folders.bundle / WEIGHTS} is missing, and {LARGE_FILES} does not list it"
    for path in files_in(folders.root):
        if path.suffix not in SUFFIXES or path.name.startswith("."):
            yield f"{path} does not belong there"


def sizes(folders: Folders) -> Iterator[str]:
    """The pull requests have no file over 25 MB."""
    for path in files_in(folders.root):
        if folders.hub not in path.parents and path.stat().st_size > LARGE:
            yield f"{path} has {path.stat().st_size / 1e6:.0f} MB, and the zoo takes {LARGE / 1e6:.0f}"


def large_files(folders: Folders) -> Iterator[str]:
    """Every file left out of the pull request can be downloaded from the Hub, under this version, with this checksum."""
    tag = folders.metadata["version"]
    for entry in large_entries(folders):
        name, file = entry["path"], folders.hub / entry["path"]
        if (folders.bundle / name).exists():
            yield f"{LARGE_FILES} lists {name}, which is in the pull request as well"
        if entry["url"] != address_of(folders, name, tag):
            yield f"{LARGE_FILES}: {name} has the address {entry['url']}, not {address_of(folders, name, tag)}"
        if not file.is_file() or (entry["hash_type"], entry["hash_val"]) != ("sha256", sha256(file)):
            yield f"{LARGE_FILES}: the checksum of {name} is not that of {file}"


def metadata(folders: Folders) -> Iterator[str]:
    """Both metadata files follow their schemas, and the change log has the version."""
    named = {"bundle": folders.bundle / "configs" / "metadata.json", "light": folders.light / "metadata.json"}
    for name, path in named.items():
        content = read_json(path)
        for fault in jsonschema.Draft202012Validator(read_json(FILES / f"{name}.schema.json")).iter_errors(content):
            yield f"{path}: {fault.json_path}: {fault.message[:200]}"
        if content.get("version") not in content.get("changelog", {}):
            yield f"{path}: the changelog has no version {content.get('version')}"
        if content.get("huggingface_url") != folders.url:
            yield f"{path}: huggingface_url is {content.get('huggingface_url')}, not {folders.url}"


def versions(folders: Folders) -> Iterator[str]:
    """The metadata asks for this version of the package, and for the versions in constraints.txt of all others."""
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    for path in (folders.bundle / "configs" / "metadata.json", folders.light / "metadata.json"):
        content = read_json(path)
        stated = {PINNED[key]: content.get(key) for key in PINNED} | content.get("required_packages_version", {})
        for name, asked in stated.items():
            known = version() if name == "monai-locor" else pins.get(name)
            if asked != known:
                yield f"{path}: {name} is {asked}, not {known}"
    for path in folders.hub.glob("*.whl"):
        if path.name != f"monai_locor-{version()}-py3-none-any.whl":
            yield f"{path} is not the wheel of version {version()}"


def licenses(folders: Folders) -> Iterator[str]:
    """Every folder has the license of the repository, and the bundle the terms of the images its weights come from."""
    own = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for folder in (folders.bundle, folders.hub, folders.light):
        path = folder / "LICENSE"
        if path.is_file() and path.read_text(encoding="utf-8") != own:
            yield f"{path} is not the license of the repository"
    for folder in (folders.bundle, folders.hub):
        path = folder / "docs" / "data_license.txt"
        if path.is_file() and SBIA_WORDS not in " ".join(path.read_text(encoding="utf-8").split()):
            yield f"{path} lacks the words that the license of the images asks for: ... {SBIA_WORDS} ..."


def data_statement(folders: Folders) -> Iterator[str]:
    """The data statement belongs to these weights, and names data whose licenses allow it."""
    path = folders.hub / "docs" / "weights.json"
    content = read_json(path)
    weights = folders.hub / content["file"]
    if not weights.is_file() or content["sha256"] != sha256(weights):
        yield f"{path}: its SHA-256 is not that of {weights}"
    told = (folders.hub / "docs" / "data_license.txt").read_text(encoding="utf-8")
    for source in content["data"]:
        if source["license"] not in ALLOWED_DATA:
            yield f"{path}: {source['name']} has the license {source['license']}, which is not among those that allow weights"
        if source["name"] not in told:
            yield f"{path}: docs/data_license.txt does not name {source['name']}"


def links(folders: Folders) -> Iterator[str]:
    """Relative links lead to files in the same folder, anchors to headings."""
    for folder in (folders.bundle, folders.hub, folders.light):
        for page in folder.rglob("*.md"):
            text = page.read_text(encoding="utf-8")
            anchors = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in _headings(text)}
            for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
                if target.startswith("#") and target[1:] not in anchors:
                    yield f"{page}: no heading {target}"
                elif not target.startswith("#") and not re.match(r"https?:", target) and not (page.parent / target).exists():
                    yield f"{page}: the link {target} leads nowhere"


def cards(folders: Folders) -> Iterator[str]:
    """The model cards have a YAML header with valid fields, and name the repository they are in."""
    schema = read_json(FILES / "card.schema.json")
    for path in (folders.hub / "README.md", folders.light / "README.md"):
        text = path.read_text(encoding="utf-8")
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        header = yaml.safe_load(found[1]) if found else {}
        for fault in jsonschema.Draft202012Validator(schema).iter_errors(header):
            yield f"{path}: header: {fault.json_path}: {fault.message[:200]}"
        if f"--repo {folders.repo} " not in text:
            yield f"{path} does not say how to download {folders.repo}"


def private_paths(folders: Folders) -> Iterator[str]:
    """No file names a folder of somebody's machine."""
    for path in files_in(folders.root):
        if path.suffix in TEXTS and (found := PRIVATE.search(path.read_text(encoding="utf-8"))):
            yield f"{path} names a folder of one machine: {found[0]}"


CHECKS: tuple[Callable[[Folders], Iterator[str]], ...] = (
    *(files, sizes, large_files, metadata, versions, licenses, data_statement, links, cards, private_paths),
)


def large_entries(folders: Folders) -> list[dict[str, Any]]:
    """The entries of the pull request's ``large_files.yml``; none if there is no such file."""
    path = folders.bundle / LARGE_FILES
    return yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"] if path.is_file() else []


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and the folders in it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", text, re.M)
