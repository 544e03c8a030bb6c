# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Links: anchors in the repository, names in docstrings, the site that was built, and other servers."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .scripts import module_of

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"\]\(([^)\s]+)[^)]*\)|<(?:a|img)\s[^>]*(?:href|src)=\"([^\"]+)\"|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`~?([\w.]+)`")


external, site_links = module_of("docs/hooks/external_links.py"), module_of("docs/hooks/site_links.py")


def markdown_files() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md"], capture_output=True, text=True, check=False).stdout
    return [ROOT / name for name in listed.splitlines()]


def anchors(path: Path) -> set[str]:
    """Anchors that a forge makes of the headings of a page."""
    found: set[str] = set()
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.add(f"{slug}-{count}" if count else slug)
    return found | {*re.findall(r"(?:id|name)=\"([^\"]+)\"", text)}


def bad_links(path: Path) -> list[str]:
    """Links of a Markdown file to a file or an anchor that does not exist."""
    bad = []
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    for found in TARGET.findall(text):
        link = next(filter(None, found))
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            bad.append(link)
    return bad


def test_links_of_markdown_files_have_their_file_and_anchor():
    files = markdown_files()
    if not files:
        pytest.skip("not a git repository")
    assert {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"} <= {*files}
    assert {str(path.relative_to(ROOT)): bad_links(path) for path in files if bad_links(path)} == {}


def test_bad_links_of_a_markdown_file_are_noticed(tmp_path):
    page = tmp_path / "a.md"
    good = (
        '[a](#one-two) [b](#one-two-1) [c](b.md#the-x-option) <img src="b.md"> [d](https://x.org#y) `[e](nowhere)`\n[f]: b.md'
    )
    page.write_text(f"# One, two\n\n## One two\n\n```bash\n# no heading\n```\n{good}\n")
    (tmp_path / "b.md").write_text("## The `x` option\n")
    assert bad_links(page) == []
    page.write_text('[a](#no-heading) [b](c.md) [c](b.md#the-y-option) <a href="c.md">x</a>\n\n[f]: c.md\n')
    assert bad_links(page) == ["#no-heading", "c.md", "b.md#the-y-option", "c.md", "c.md"]


def named(name: str, module: str, path: Path, owner: str) -> bool:
    """Whether a role of a docstring names something that can be imported."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    choices = [f"{module}.{owner}.{name}", f"{module}.{name}", name]
    if name.startswith("."):
        choices = [f"{package}{name}"]
    return any(resolved(choice) for choice in choices)


def resolved(name: str) -> bool:
    parts = [part for part in name.split(".") if part]
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            thing = importlib.import_module(module)
        except ImportError:
            if (ROOT / module.replace(".", "/")).with_suffix(".py").is_file():
                return True  # it needs a package that is not installed
            continue
        for part in parts[length:]:
            fields = getattr(thing, "__dataclass_fields__", {})
            annotated = getattr(thing, "__annotations__", {})
            if not hasattr(thing, part):
                return part in fields or part in annotated or f"self.{part}" in source_of(thing)
            thing = getattr(thing, part)
        return True
    return False


def source_of(thing: object) -> str:
    import inspect

    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""


def roles() -> list[tuple[str, Path, str, str]]:
    """Module, file, class and name of every role in the docstrings of the package."""
    found = []
    for path in sorted((ROOT / "monai_locor").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

        def visit(node: ast.AST, owner: str, module: str = module, path: Path = path) -> None:
            for child in ast.iter_child_nodes(node):
                visit(child, f"{owner}.{child.name}".strip(".") if isinstance(child, ast.ClassDef) else owner)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                found.extend((module, path, owner, name) for name in ROLE.findall(text))

        visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_roles_in_docstrings_name_something():
    everything = roles()
    assert len(everything) > 100
    bad = [f"{module}: {name}" for module, path, owner, name in everything if not named(name, module, path, owner)]
    assert bad == [], "write `.module.Name` with the module of the name, or its full path"


class TestSite:
    def written(self, folder: Path, **pages: str) -> list[tuple[str, str, str]]:
        for name, body in pages.items():
            path = folder / name.replace("__", "/").replace("_html", ".html")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<html><body>{body}</body></html>")
        return list(site_links.faults(folder))

    def test_good_links(self, tmp_path):
        (tmp_path / "a b.png").write_bytes(b"")
        a = '<h1 id="x">X</h1><a href="b/">1</a><a href="b/index.html#y">2</a><a href="#x">3</a><img src="a%20b.png">'
        b = '<a name="y"></a><a href="../a.html#x">1</a><a href="https://x.org/z#q">2</a><a href="mailto:x@y.org">3</a>'
        assert self.written(tmp_path, a_html=a, b__index_html=b) == []

    def test_bad_links(self, tmp_path):
        found = self.written(tmp_path, a_html='<a href="c.html">1</a><a href="#y">2</a><img src="c.png"><a href="../z">3</a>')
        nowhere = "leads nowhere"
        assert found == [
            ("a.html", "c.html", nowhere),
            ("a.html", "#y", "has no such anchor"),
            ("a.html", "c.png", nowhere),
            ("a.html", "../z", nowhere),
        ]

    def test_a_bad_link_is_a_warning_of_mkdocs(self, tmp_path, caplog):
        (tmp_path / "a.html").write_text('<a href="c.html">1</a>')
        site_links.on_post_build(config={"site_dir": str(tmp_path)})
        assert [record.levelname for record in caplog.records] == ["WARNING"] and "c.html" in caplog.text


class Server(BaseHTTPRequestHandler):
    """Answers by the path: a status, ``/moved``, ``/slow``, or ``/later``, which fails the first time."""

    seen: list[str] = []

    def do_GET(self):
        Server.seen.append(self.path)
        if self.path == "/slow":
            time.sleep(1.0)
        failed = self.path == "/later" and Server.seen.count("/later") == 1
        status = 301 if self.path == "/moved" else 503 if failed else int(self.path[1:]) if self.path[1:].isdigit() else 200
        self.send_response(status)
        if status == 301:
            self.send_header("Location", "/200")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b'<h1 id="here">Here</h1>')

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestExternal:
    def ask(self, url: str, attempts: int = 2, seconds: float = 5.0):
        Server.seen.clear()
        return external.ask(url, attempts, seconds, pause=0.01)

    def test_an_answer(self, address):
        assert self.ask(f"{address}/200") == ("ok", "200")
        assert self.ask(f"{address}/200#here").kind == "ok"

    @pytest.mark.parametrize(("status", "requests"), [(404, 1), (410, 1), (500, 2), (503, 2)])
    def test_gone_or_failing(self, address, status, requests):
        outcome = self.ask(f"{address}/{status}")
        assert outcome.kind == "broken" and outcome.text.startswith(str(status)) and len(Server.seen) == requests

    @pytest.mark.parametrize(("status", "requests"), [(401, 1), (403, 1), (429, 2)])
    def test_refused(self, address, status, requests):
        assert self.ask(f"{address}/{status}").kind == "refused" and len(Server.seen) == requests

    def test_moved(self, address):
        assert self.ask(f"{address}/moved") == ("moved", f"{address}/200")

    def test_a_second_attempt(self, address):
        assert self.ask(f"{address}/later").kind == "ok" and len(Server.seen) == 2

    def test_no_such_anchor(self, address):
        assert self.ask(f"{address}/200#there") == ("broken", "no anchor #there")

    def test_a_time_limit(self, address):
        outcome = self.ask(f"{address}/slow", attempts=1, seconds=0.1)
        assert outcome.kind == "broken" and "timed out" in outcome.text

    def test_nobody_answers(self):
        with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
            port = server.server_port
        assert self.ask(f"http://127.0.0.1:{port}/200").kind == "broken"

    @pytest.mark.parametrize(("path", "code"), [("200", 0), ("moved", 0), ("403", 0), ("404", 1)])
    def test_the_exit_code_and_the_place(self, address, path, code, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(external, "RESERVED", re.compile("nothing"))
        monkeypatch.setattr(external, "fault", lambda url: "")
        page = tmp_path / "a.md"
        page.write_text(f"A link\n[here]({address}/{path}).\n")
        assert external.main([str(page)]) == code
        told = capsys.readouterr().out
        assert f"1 links, {code} broken" in told and (f"{page}:2" in told) == (path != "200")


def test_links_are_found_in_text_code_and_notebooks(tmp_path):
    page, notebook = tmp_path / "a.md", tmp_path / "b.ipynb"
    page.write_text("[a](https://a.org/x_(y)), <https://b.org>. `https://c.org/d`; git.example.org https://x.example.org/q\n")
    notebook.write_text('"see https://e.org/f\\n",\n"image/png": "https://no.org"\n')
    assert list(external.links([page, notebook])) == [
        "https://a.org/x_(y)",
        "https://b.org",
        "https://c.org/d",
        "https://e.org/f",
    ]


def test_the_form_of_every_external_link_is_valid():
    found = external.links(external.files())
    assert len(found) > 20 and "https://monai.io" in found
    assert {url: external.fault(url) for url in found if external.fault(url)} == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://a.org",
        "https://a",
        "https://a.org/b c",
        "https://a.org:x/",
        "https://a.org/#b#c",
        "https://a.org/[b",
        "https://[a",
    ],
)
def test_a_bad_form_is_noticed(url):
    assert external.fault(url)
