# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files for a release: versions, metadata, conda recipe, Dockerfile, forms of issues."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import monai_locor

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "packaging" / "release.py"
CONDA_NAMES = {"torch": "pytorch", "itk-core": "itk", "itk-io": "itk", "itk-numerics": "itk"}


@pytest.fixture
def release():
    """The functions of the script."""
    return runpy.run_path(str(RELEASE))


def core_dependencies() -> list[Requirement]:
    block = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)[1]
    return [Requirement(line) for line in re.findall(r'^ +"(.+?)"', block, re.M)]


def extras() -> set[str]:
    block = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", block, re.M))


def test_versions_agree(release):
    assert release["problems"](tagged=False) == []
    assert release["version"]() == monai_locor.__version__ and len(release["versions"]()) == 5


def test_another_version_is_a_problem(release, monkeypatch):
    monkeypatch.setitem(release["problems"].__globals__, "version", lambda: "9.9.9")
    found = release["problems"](tagged=False)
    assert len(found) == 5 and all("9.9.9" in text for text in found)


def test_what_is_released_is_tagged_and_dated(release, monkeypatch):
    names = release["problems"].__globals__
    own = monai_locor.__version__
    texts = {"CHANGELOG.md": f"## [{own}] - 2026-01-31\n"}
    read = names["_text"]
    monkeypatch.setitem(names, "_text", lambda path: texts.get(str(path)) or read(path))
    answers = {"tag": f"v{own}", "status": ""}
    monkeypatch.setitem(names, "_git", lambda command, *_: answers[command])
    assert release["problems"]() == []
    answers["tag"], answers["status"] = "v0.0.1", " M README.md"
    texts["CHANGELOG.md"] = "## [Unreleased]\n"
    assert [text.split()[0] for text in release["problems"]()] == ["CHANGELOG.md", "this", "there"]


def test_recipe_gets_the_digest_of_the_sdist(release, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    text = release["write_recipe"](tmp_path / "a.tar.gz").read_text(encoding="utf-8")
    assert "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n" in text


def test_conda_recipe_needs_what_the_package_needs():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    ours = {f"{CONDA_NAMES.get(each.name, each.name)} {each.specifier}" for each in core_dependencies()}
    assert set(recipe["requirements"]["run"]) - {"python >=${{ python_min }}"} == ours
    assert recipe["build"]["python"]["entry_points"] == ["monai-locor = monai_locor.cli:main"]


def test_citation_and_codemeta():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["license"] == "Apache-2.0" and codemeta["license"].endswith("/Apache-2.0")
    assert "2503.05335" in citation["preferred-citation"]["url"] and "2503.05335" in codemeta["referencePublication"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms(path):
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form["blank_issues_enabled"] is True
        return
    assert form["name"] and form["description"]
    identifiers = [field["id"] for field in form["body"]]
    assert len(identifiers) == len(set(identifiers)) and all(field["attributes"]["label"] for field in form["body"])
    assert {field["type"] for field in form["body"]} <= {"textarea", "input", "checkboxes"}


def test_every_extra_is_documented_and_all_has_every_other():
    table = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|.+\| [\d.]+ GB \|$", table, re.M)) == extras()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.search(r"^all = \[\"monai-locor\[(.+)\]\"\]$", text, re.M)[1].split(",")) == extras() - {"all"}


def test_only_extras_that_exist_are_named():
    texts = [
        path for part in ("monai_locor", "docs", "bundles", "integrations", "tutorials") for path in (ROOT / part).rglob("*")
    ]
    named = {
        name
        for path in [*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / "Dockerfile"]
        if path.suffix in {"", ".cff", ".ipynb", ".md", ".py", ".yml"} and path.is_file()
        for names in re.findall(r"(?:monai-locor|-e '\.|\"\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
    assert {"demo", "formats", "plot"} <= named <= extras()


def test_dockerfile_copies_what_the_context_holds():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()}
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M))
    assert copied == kept and all((ROOT / name).exists() for name in copied)
    assert set(re.search(r"^ARG EXTRAS=(\S+)$", text, re.M)[1].split(",")) <= extras()
    assert re.search(r"^USER (?!root)\S+$", text, re.M) and 'ENTRYPOINT ["monai-locor"]' in text
