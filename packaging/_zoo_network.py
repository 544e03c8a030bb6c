# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of the assembled bundle with MONAI's own tools, offline: schema, shapes, properties, weights, TorchScript."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _zoo_folders import Folders
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, load, verify_metadata, verify_net_in_out

SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"  # of meta_schema_20240725.json, as MONAI's tests have it
NETWORK = "network_def"


def official_schema(folders: Folders, schema: Path) -> Iterator[str]:
    """The metadata follows the zoo's own schema.

    Args:
        folders: the assembled folders.
        schema: the file that the key ``schema`` of the metadata is the address of.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "schema.json"  # MONAI downloads the schema unless there is such a file
        shutil.copy(schema, copy)
        try:
            verify_metadata(meta_file=str(_meta(folders)), filepath=str(copy), hash_val=SCHEMA_MD5, hash_type="md5")
        except (RuntimeError, ValueError) as error:
            yield f"{_meta(folders)}: {str(error)[:300]}"


def shapes(folders: Folders) -> Iterator[str]:
    """The network's input and output have the channels and types that the metadata states."""
    try:
        verify_net_in_out(NETWORK, meta_file=str(_meta(folders)), config_file=_config(folders), device="cpu", p=1, n=2, any=16)
    except (RuntimeError, ValueError) as error:
        yield f"{_meta(folders)}: {str(error)[:300]}"


def properties(folders: Folders) -> Iterator[str]:
    """The configuration of the inference has all parts that MONAI's tools ask for."""
    workflow = ConfigWorkflow(_config(folders), meta_file=str(_meta(folders)), workflow_type="infer", logging_file=False)
    workflow.initialize()
    yield from (f"{_config(folders)} lacks {name}" for name in workflow.check_properties() or [])


def weights(folders: Folders) -> Iterator[str]:
    """The weights load without running code, fit network and loss, and are finite."""
    path, parser = _weights(folders), _parser(folders)
    try:
        saved = _saved(folders)
        for key, part in (("model", NETWORK), ("loss", "loss")):
            module = parser.get_parsed_content(part)
            module.load_state_dict(saved[key])
            if not all(torch.isfinite(value).all() for value in module.state_dict().values()):
                yield f"{path}: {key} has values that are not finite"
    except Exception as error:  # of a damaged file, anything
        yield f"{path}: {str(error)[:300]}"


def loading(folders: Folders) -> Iterator[str]:
    """`monai.bundle.load`, called as in the model card, returns the network with its weights."""
    name = folders.hub.name
    network = load(name, bundle_dir=folders.hub.parent, workflow_type="inference", device="cpu", key_in_ckpt="model")
    saved = _saved(folders)["model"]
    if not all(torch.equal(value, saved[key]) for key, value in network.state_dict().items()):
        yield f"{folders.hub}: monai.bundle.load returns other weights than models/model.pt"


def torchscript(folders: Folders) -> Iterator[str]:
    """The network with its weights can be exported as TorchScript and gives the same result."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.ts"
        ckpt_export(
            NETWORK,
            filepath=str(path),
            ckpt_file=str(_weights(folders)),
            meta_file=str(_meta(folders)),
            config_file=_config(folders),
        )
        script = torch.jit.load(str(path))
    network = _parser(folders).get_parsed_content(NETWORK)
    network.load_state_dict(_saved(folders)["model"])
    channels = folders.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    image = torch.rand(1, channels, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.allclose(network.eval()(image), script.eval()(image), atol=1e-5):
            yield f"{folders.hub}: the TorchScript module gives another result than the network"


CHECKS: tuple[Callable[[Folders], Iterator[str]], ...] = (shapes, properties, weights, loading, torchscript)


def _meta(folders: Folders) -> Path:
    return folders.hub / "configs" / "metadata.json"


def _config(folders: Folders) -> str:
    return str(folders.hub / "configs" / "inference.json")


def _parser(folders: Folders) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_file(_config(folders)))


def _weights(folders: Folders) -> Path:
    return folders.hub / "models" / "model.pt"


def _saved(folders: Folders) -> dict[str, Any]:
    return torch.load(_weights(folders), map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
