# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Install missing packages from a folder of wheels, and describe the machine. Needs only the standard library.

The wheels go to a separate folder, which is put on the path of this process and its children. The machine's torch and numpy
stay unchanged.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from _runs import commit_of, source_hash

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "numpy", "scipy", "tqdm", "pytest", "monai", "nibabel", "ignite")  # as they are imported


def missing() -> list[str]:
    """Names of packages that cannot be imported."""
    importlib.invalidate_caches()
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def install(wheels: Path, site: Path) -> list[str]:
    """Install all wheels of a folder into `site`, without an index and dependencies, and put `site` on the path.

    Returns:
        unmet requirements of the wheels, one line each; they may work nevertheless.

    Raises:
        RuntimeError: when a package still cannot be imported.
    """
    if site.is_dir():
        sys.path.insert(0, str(site))
    if missing() and list(wheels.glob("*.whl")):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--no-compile",
        ]
        files = sorted(map(str, wheels.glob("*.whl")))
        done = subprocess.run([*pip, "--upgrade", "--target", str(site), *files], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not install the wheels of {wheels}: {done.stderr.strip()}")
        sys.path.insert(0, str(site))
    lacking = missing()
    if lacking:
        raise RuntimeError(f"{', '.join(lacking)} not installed, and no wheel in {wheels}; run `make gpu-wheels` first")
    return unmet(site)


def unmet(site: Path) -> list[str]:
    """Unmet requirements of the packages in `site`, one line each."""
    from packaging.requirements import Requirement

    found = []
    for distribution in importlib.metadata.distributions(path=[str(site)]):
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                version = "none"
            if version == "none" or not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{distribution.metadata['Name']} needs {requirement}, here is {version}")
    return found


def environment(site: Path) -> dict[str, str]:
    """For the processes that the script starts."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), str(site), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def driver() -> dict[str, str]:
    """Name, driver and memory of the first GPU from its tool; empty without a GPU."""
    names = ("name", "driver_version", "memory.total")
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(("GPU", "driver", "memory"), (cell.strip() for cell in said.splitlines()[0].split(","))))


def machine(device: str, commit: str) -> dict[str, Any]:
    """Date, hardware and versions."""
    found: dict[str, Any] = {"date": datetime.date.today().isoformat(), **(driver() if device.startswith("cuda") else {})}
    found |= {"device": device, "cores": os.cpu_count(), "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in ("torch", "numpy", "monai")}
    return found | {"commit": commit or commit_of(ROOT) or "unknown", "source": source_hash(ROOT / "monai_locor")}
