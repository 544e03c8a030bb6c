# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Upload the bundle that `make zoo` assembled to the Hugging Face Hub, and tag its version. Needs an account.

pip install huggingface_hub && hf auth login
python packaging/upload_bundle.py dist/zoo --repo ACCOUNT/locor_registration --dry-run    # only says what it would do
python packaging/upload_bundle.py dist/zoo --repo ACCOUNT/locor_registration
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import _zoo_checks
from _zoo_folders import Folders


def problems(folders: Folders) -> list[str]:
    """What keeps these folders from being uploaded; the checks of `packaging/zoo.py` that read files."""
    if not (folders.hub / "configs" / "metadata.json").is_file():
        return [f"{folders.root} has no assembled bundle: make zoo REPO={folders.repo}"]
    return [text for check in _zoo_checks.CHECKS for text in check(folders)]


def upload(folders: Folders, private: bool, hub: Any) -> str:
    """Create the repository if there is none, upload the folder as one commit, tag it with the bundle's version.

    Args:
        folders: the assembled folders.
        private: whether a new repository is private.
        hub: a ``huggingface_hub.HfApi``.

    Returns:
        the address of the version.

    Raises:
        SystemExit: if the version has been published already.
    """
    tag = folders.metadata["version"]
    hub.create_repo(repo_id=folders.repo, private=private, exist_ok=True)
    if tag in {known.name for known in hub.list_repo_refs(repo_id=folders.repo).tags}:
        raise SystemExit(f"error: {folders.repo} has a version {tag} already; raise it in metadata.json, with its changelog")
    hub.upload_folder(
        repo_id=folders.repo, folder_path=str(folders.hub), commit_message=f"Upload version {tag}", delete_patterns="*"
    )
    hub.create_tag(repo_id=folders.repo, tag=tag)
    return f"{folders.url}/tree/{tag}"


def plan(folders: Folders) -> str:
    """What would be uploaded."""
    files = _zoo_checks.files_in(folders.hub)
    lines = [f"{path.stat().st_size:>10,}  {path.relative_to(folders.hub).as_posix()}" for path in files]
    return "\n".join([f"{folders.repo}, version {folders.metadata['version']}, {len(files)} files, bytes:", *lines])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that make zoo wrote")
    parser.add_argument("--repo", required=True, help="OWNER/NAME, as given to make zoo")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded, without a network")
    args = parser.parse_args()
    folders = Folders(args.folder.resolve(), args.repo)
    if found := problems(folders):
        raise SystemExit("\n".join(f"error: {text}" for text in found))
    print(plan(folders))
    if args.dry_run:
        return
    try:
        from huggingface_hub import HfApi  # only this needs it
    except ImportError:
        raise SystemExit("error: huggingface_hub is not installed: pip install huggingface_hub") from None
    print(f"uploaded: {upload(folders, args.private, HfApi())}")


if __name__ == "__main__":
    main()
