# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Install what the bundle requires as the model zoo's checks do, and run the assembled bundle there."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _zoo_folders import Folders
from release import environment, run

EXTRAS = ("scipy",)  # what the unit test needs beside the bundle's requirements; the zoo's requirements have it


def requirements(folders: Folders) -> list[str]:
    """The requirements that the zoo's checks take from the metadata."""
    meta = folders.metadata
    core = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], "numpy": meta["numpy_version"]}
    return [f"{name}=={version}" for name, version in {**core, **meta["required_packages_version"]}.items()]


def try_in_empty_environment(folders: Folders, wheel: Path) -> None:
    """Install the requirements into an empty environment, this package from its wheel, and run the unit test there.

    The bundle is that of the repository on the Hub, and the working directory is outside of this repository.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        required = ("--find-links", wheel.parent, *requirements(folders), *EXTRAS)
        own = environment(sys.executable, folder / "env", *required)
        run([own, folders.unit_test], folder, {"LOCOR_BUNDLE": str(folders.hub)})
    print("== the bundle runs with exactly what it requires", flush=True)
