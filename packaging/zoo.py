# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Assemble and check the bundle for the model zoo and the Hugging Face Hub; `make zoo` runs it. Nothing is uploaded.

It writes into dist/zoo:

    pull_request/         for a pull request to github.com/Project-MONAI/model-zoo: the bundle and a unit test
    light_pull_request/   instead of it: an entry under hf_models that links to the Hub
    huggingface/          the repository on the Hub: the bundle with a model card

and checks them without a network: files, sizes, checksums, metadata, versions, licenses, links, model cards, network, weights.

    python packaging/zoo.py --repo ACCOUNT/locor_registration      # the repository on the Hub
    python packaging/zoo.py --schema meta_schema_20240725.json   # check the metadata against the zoo's own schema as well
    python packaging/zoo.py --wheel dist/monai_locor-*.whl       # put the package beside the bundle on the Hub
    python packaging/zoo.py --wheel dist/monai_locor-*.whl --install    # install what the bundle requires, run it there
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import _zoo_checks
import _zoo_network
from _zoo_folders import NAME, Folders, assemble
from _zoo_install import try_in_empty_environment
from release import ROOT

Check = Callable[[Folders], Iterator[str]]


def checks(schema: Path | None) -> list[tuple[str, Check]]:
    """All checks with what they make sure of."""
    found: list[tuple[str, Check]] = [(_title(check), check) for check in _zoo_checks.CHECKS]
    if schema is not None:
        official = _zoo_network.official_schema
        found.append((_title(official), partial(official, schema=schema)))
    return found + [(_title(check), check) for check in _zoo_network.CHECKS]


def _title(check: Callable[..., Iterator[str]]) -> str:
    return (check.__doc__ or "").splitlines()[0]


def problems(folders: Folders, schema: Path | None = None) -> list[str]:
    """Run all checks and print their results.

    Returns:
        what they found. The checks of the network are left out if those of the files found something.
    """
    found: list[str] = []
    for text, check in checks(schema):
        if found and check not in _zoo_checks.CHECKS:
            break
        own = list(check(folders))
        print(f"{'FAILED' if own else 'ok':6}  {text}", flush=True)
        found += own
    return found


def next_steps(folders: Folders) -> str:
    """What to do with the folders, for whoever has the accounts."""
    return f"""
The Hub (an account, `hf auth login` once); add --dry-run to see what it would do:
    {sys.executable} packaging/upload_bundle.py {folders.root} --repo {folders.repo}

The model zoo (an account), after the package is in the index from which the zoo's checks install it (make release, then
its last line): in a clone of a fork of Project-MONAI/model-zoo, on a branch from dev,
    cp -r {folders.root}/pull_request/. CLONE
or, if only an entry that links to the Hub is wanted,
    cp -r {folders.root}/light_pull_request/. CLONE
then commit and open a pull request to dev. docs/guide/publish-bundle.md has the details."""


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repo", default=f"MONAI/{NAME}", help="repository on the Hub; default: %(default)s, as the zoo names it"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "zoo", help="folder, replaced; default: dist/zoo")
    parser.add_argument("--schema", type=Path, help="meta_schema_20240725.json of the zoo")
    parser.add_argument("--wheel", type=Path, help="wheel of this package, as make release builds it")
    parser.add_argument("--install", action="store_true", help="try the bundle in an empty environment (needs an index)")
    args = parser.parse_args()
    if args.repo.count("/") != 1 or not all(args.repo.split("/")):
        parser.error(f"--repo must be OWNER/NAME, got {args.repo!r}")
    for path in (args.schema, args.wheel):
        if path is not None and not path.is_file():
            parser.error(f"{path}: no such file")
    if args.install and args.wheel is None:
        parser.error("--install needs --wheel")
    logging.disable(logging.WARNING)  # MONAI's, of every configuration it reads
    folders = Folders(args.output.resolve(), args.repo)
    assemble(folders, args.wheel)
    if found := problems(folders, args.schema):
        raise SystemExit("\n".join(f"error: {text}" for text in found))
    if args.schema is None:
        print("left out: the zoo's own schema; download the file named in metadata.json and give --schema")
    if args.install:
        try_in_empty_environment(folders, args.wheel.resolve())
    print(next_steps(folders))


if __name__ == "__main__":
    main()
