# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Commands, code, links and figures of the documentation are valid and current."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import monai_locor
from monai_locor.cli.main import COMMANDS, build_parser
from monai_locor.cli.settings import settings_of
from monai_locor.io import FORMATS

from .scripts import module_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "bundles/locor_registration/docs/README.md"]
SOURCES = [*PAGES, *sorted((ROOT / "tutorials").glob("*.ipynb"))]
NAMES = ("--help", *(module.__name__.rpartition(".")[2] for module in COMMANDS))
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
ARENA = re.compile(r"<!-- arena -->.*?<!-- end arena -->", re.DOTALL)
INLINE = re.compile(r"`(monai-locor [^`]+)`")


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":  # lines of JSON strings
        text = "\n".join(re.sub(r'^\s*"(.*?)(?:\\n)?",?$', r"\1", line).replace('\\"', '"') for line in text.splitlines())
    return text


def commands(text: str) -> list[str]:
    shell = [body for kind, body in FENCE.findall(text) if kind in ("bash", "text")]
    blocks = [body.replace("\\\\\n", " ").replace("\\\n", " ") for body in shell]  # lines that go on
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    found = [line.removeprefix("$ ") for line in lines if line.startswith("monai-locor ")]
    return found + INLINE.findall(FENCE.sub("", text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_understood(path):
    for command in commands(text_of(path)):
        arguments = shlex.split(command)[1:]
        if len(arguments) == 1 and arguments[0] in NAMES:
            continue  # in running text
        args = build_parser().parse_args(arguments)
        assert args.command in NAMES, command
        if getattr(args, "changes", None) or getattr(args, "similarity", None):
            args.config = None  # a file of the reader's
            assert settings_of(args), command
        assert getattr(args, "format", None) in (None, *FORMATS), command


def test_there_are_commands_to_check():
    table = ROOT / "docs/guide/coming-from.md"
    assert len(commands(text_of(table))) > 40
    notebooks = [commands(text_of(path)) for path in SOURCES if path.suffix == ".ipynb"]
    assert sum(map(len, notebooks)) >= 5


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_is_python(path):
    for kind, body in FENCE.findall(text_of(path)):
        if kind == "python":
            compile(body, str(path), "exec")


@pytest.mark.parametrize(
    "path",
    [*PAGES, *ROOT.glob("*.md"), *(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "tutorials").glob("*.ipynb")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere_in_the_repository(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"\]\[monai_locor", text), "link to the module, with the name in the API reference as the title"
    for target in re.findall(r"\]\(([^)\s\"#\\]+)", text):
        assert re.match(r"https?:|data:", target) or (path.parent / target).exists(), target


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    """``docs/hooks/help_texts.py``."""
    return module_of("docs/hooks/help_texts.py")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """``docs/hooks/figures.py``."""
    return module_of("docs/hooks/figures.py")


def test_help_texts_and_formats_are_up_to_date(texts):
    pages = list(texts.pages())
    assert {page.name for page in pages} == {"command-line.md", "run-json.md", "transforms.md"}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert texts.updated(text) == text, "make texts"
    quoted = (ROOT / "docs/guide/command-line.md").read_text(encoding="utf-8")
    assert all(f"usage: monai-locor {name}" in quoted for name in NAMES[1:])


def test_tables_of_figures_are_up_to_date(figures):
    pages = [path.relative_to(ROOT).as_posix() for path in figures.pages()]
    assert {"README.md", "docs/index.md", "bundles/locor_registration/docs/README.md"} <= {*pages}
    for page in map(ROOT.joinpath, pages):
        text = page.read_text(encoding="utf-8")
        assert figures.updated(text, page) == text, f"{page}: run make texts"


def test_a_table_that_was_edited_is_noticed(figures):
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    changed = text.replace("| 0.509 |", "| 0.409 |", 1)
    assert changed != text and figures.updated(changed, page) == text


def numbers(value: object) -> set[str]:
    """All numbers in a JSON value as text, at every precision that a page may use."""
    if isinstance(value, dict | list):
        return set().union(*map(numbers, value.values() if isinstance(value, dict) else value))
    return {f"{value:.{digits}f}" for digits in range(5)} if isinstance(value, int | float) else set()


def test_results_pages_have_the_current_figures(figures):
    for name, section in figures.read().items():
        page = (ROOT / "benchmarks/results" / section["page"]).read_text(encoding="utf-8")
        shown = {*re.findall(r"\d+(?:\.\d+)?", page)}
        for row in section["rows"]:
            measured = {key: value for key, value in row.items() if isinstance(value, float)}
            missing = {key: value for key, value in measured.items() if not numbers(abs(value)) & shown}
            assert not missing, f"{section['page']}, {name}: {missing}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_and_dice_in_the_text_are_current(path, figures):
    text = re.sub(r"`[^`]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    text = ARENA.sub("", text)  # tests/benchmarks/test_arena.py compares it with the stored runs
    quoted = {*re.findall(r"(?<![\d.\w])\d\.\d{3}(?![\d.\w])", text)}
    assert quoted <= numbers(figures.read()), "not in benchmarks/results/current.json"


def test_results_have_an_index_and_pages_without_a_date():
    folder = ROOT / "benchmarks/results"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert all(f"]({name})" in index for name in pages)
    assert not [name for name in pages if re.search(r"20\d\d-", name)], "move it to archive/"


def test_the_address_to_clone_from_is_in_one_place():
    files = [path for path in [*PAGES, *ROOT.glob("*.*")] if path.is_file() and not path.name.startswith(".coverage")]
    found = [path for path in files if "OWNER/" in path.read_text(encoding="utf-8")]
    assert {*found} <= {ROOT / "README.md"}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_documentation_is_published_as_the_version_of_the_package():
    version = ".".join(monai_locor.__version__.split(".")[:2])
    for words, deployed in (("ALIAS=latest", f"{version} latest"), ("VERSION=dev", "dev")):
        told = subprocess.run(
            ["make", "-n", "docs-version", words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert re.search(rf"mike deploy --update-aliases {re.escape(deployed)} *$", told, re.MULTILINE)


def test_a_command_that_does_not_exist_is_noticed():
    assert commands("`monai-locor warp a.nii.gz`") == ["monai-locor warp a.nii.gz"]
    with pytest.raises(Exception, match="warp"):
        build_parser().parse_args(["warp", "a.nii.gz"])
