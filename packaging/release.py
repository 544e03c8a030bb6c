# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Check, build and try a release; `make release` runs it. Nothing is uploaded.

It checks that the version is the same everywhere, builds the sdist and the wheel, checks both with twine, installs the wheel
into an empty environment of each Python that is found, runs `monai-locor demo` there, and writes the conda recipe.

    python packaging/release.py                      # all of it
    python packaging/release.py --check              # only whether version, tag and change log agree
    python packaging/release.py --python python3.12  # try the wheel with this Python alone
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLICER = Path("integrations", "slicer", "MonaiLocorCLI", "MonaiLocorCLI.xml")
BUNDLE = Path("bundles", "locor_registration", "configs", "metadata.json")
RECIPE = Path("packaging", "conda", "recipe.yaml")
GIT = shutil.which("git") or "git"
PYTHONS = tuple(f"python3.{minor}" for minor in range(10, 15))
DEMO = "-m monai_locor demo --preset draft --spacing 4 --output-dir demo_output".split()
DEMO_FILES = ("warped.nii.gz", "forward_field.nii.gz", "run.json", "report.html")


def version() -> str:
    """Return the version of the package, read without an import."""
    return _match(r'__version__ = "(.+)"', Path("monai_locor", "_version.py"))


def versions() -> dict[str, str]:
    """Return the version that each file states, by file."""
    return {
        "CITATION.cff": _match(r"^version: (.+)$", "CITATION.cff"),
        "codemeta.json": json.loads(_text("codemeta.json"))["version"],
        str(RECIPE): _match(r'^  version: "(.+)"$', RECIPE),
        str(SLICER): _match(r"<version>(.+)</version>", SLICER),
        str(BUNDLE): json.loads(_text(BUNDLE))["required_packages_version"]["monai-locor"],
    }


def problems(tagged: bool = True) -> list[str]:
    """Return the reasons why this commit cannot be released.

    Args:
        tagged: also check the tag, the date in the change log and the working tree, as for the commit of a release.
    """
    own = version()
    found = [f"{file} has version {other}, the package {own}" for file, other in versions().items() if other != own]
    if not tagged:
        return found
    if not re.search(rf"^## \[{re.escape(own)}\] - \d{{4}}-\d\d-\d\d$", _text("CHANGELOG.md"), re.M):
        found.append(f"CHANGELOG.md has no heading '## [{own}] - YYYY-MM-DD'")
    if f"v{own}" not in _git("tag", "--points-at", "HEAD").split():
        found.append(f"this commit is not tagged: git tag -a v{own}")
    if _git("status", "--porcelain"):
        found.append("there are uncommitted changes")
    return found


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist and, from it, the wheel; check both with twine."""
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT])
    sdist, wheel = next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))
    run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    return sdist, wheel


def try_wheel(wheel: Path, python: str) -> None:
    """Install the wheel into an empty environment and run the demonstration there, outside the repository."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = environment(python, folder / "env", "-c", ROOT / "constraints.txt", f"{wheel}[demo]")
        run([own, *DEMO], folder)
        missing = [file for file in DEMO_FILES if not (folder / "demo_output" / file).exists()]
        if missing:
            raise SystemExit(f"error: the demonstration of {wheel.name} with {python} did not write {', '.join(missing)}")
        print(f"== {wheel.name} works with {python}", flush=True)


def environment(python: str, folder: Path, *requirements: str | Path) -> Path:
    """Make an environment, install into it and return its Python; `requirements` may hold options of pip."""
    run([python, "-m", "venv", folder])
    own = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run([own, "-m", "pip", "install", "-q", *requirements])
    return own


def write_recipe(sdist: Path) -> Path:
    """Write the conda recipe with the SHA-256 of the sdist, beside the sdist."""
    path = sdist.parent / RECIPE.name
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    path.write_text(re.sub(r'sha256: "0{64}".*', f"sha256: {digest}", _text(RECIPE)), encoding="utf-8")
    return path


def pythons() -> list[str]:
    """Return the Pythons from 3.10 to 3.14 that run here; some version managers have commands for versions that do not."""
    found = [name for name in PYTHONS if shutil.which(name)]
    return [name for name in found if subprocess.run([name, "-V"], check=False, capture_output=True).returncode == 0]


def _text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _match(pattern: str, path: str | Path) -> str:
    found = re.search(pattern, _text(path), re.M)
    if found is None:
        raise SystemExit(f"error: {path} states no version: nothing matches {pattern}")
    return found[1]


def _git(*arguments: str) -> str:
    return subprocess.run([GIT, "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def run(command: list[str | Path], folder: Path | None = None, variables: dict[str, str] | None = None) -> None:
    """Print a command and run it; it must succeed."""
    print("==", *command, flush=True)
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, **(variables or {})})


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check version, tag and change log only")
    parser.add_argument("--python", nargs="+", help="try the wheel with these; default: python3.10 to 3.14, those found")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the files, replaced; default: dist")
    parser.add_argument("--rehearse", action="store_true", help="do not ask for a tag, a date and a clean working tree")
    args = parser.parse_args()
    if found := problems(tagged=not args.rehearse):
        raise SystemExit("\n".join(f"error: {text}" for text in found))
    if args.check:
        return
    shutil.rmtree(args.output, ignore_errors=True)
    sdist, wheel = build(args.output)
    recipe = write_recipe(sdist)
    tried = args.python or pythons()
    for python in tried:
        try_wheel(wheel, python)
    print(f"Tried with {', '.join(tried)}. Conda recipe: {recipe}")
    print(f"To publish: {sys.executable} -m twine upload {sdist} {wheel}")


if __name__ == "__main__":
    main()
