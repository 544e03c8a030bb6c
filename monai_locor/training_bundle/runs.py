# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks of everything, then training or evaluation."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import set_determinism

from ..bundle import caller, one_line_errors
from ..data.datalist import check_writable
from ..data.training import check_training_pairs
from ..errors import InputError
from ..io import read_image
from .options import within
from .processes import rank, world_size

__all__ = ["evaluate", "set_seed", "train"]

# options: whole numbers and the least they may be, positive numbers, and those that may be left out
WHOLE = {
    "batch_size": 1,
    "epochs": 1,
    "pairs_per_epoch": 1,
    "val_interval": 1,
    "picture_interval": 1,
    "early_stop_patience": 0,
    "num_workers": 0,
    "seed": 0,
}
POSITIVE = ("spacing", "lr", "basis_lr", "lr_decay")
OPTIONAL = ("pairs_per_epoch", "early_stop_patience")


def set_seed(seed: Any) -> None:
    """Seed what is random before the first epoch; to be called in ``initialize``.

    Raises:
        SystemExit: with one line when it is no seed.
    """
    with one_line_errors():
        _check_number("seed", seed)
        set_determinism(seed)


def train() -> None:
    """Check everything, then train; to be called in ``run``.

    Raises:
        SystemExit: with one line when there is an :class:`InputError`; all other errors pass.
    """
    with one_line_errors():
        parser = _parser()
        _check_numbers(parser)
        _check_pairs(parser, "train", "validate")
        _check_output(parser, "ckpt_dir", "tf_dir")
        # from what is soon refused to what takes long
        _make(parser, "loss", "network", "optimizer", "initial_weights", "resumed_weights")
        _make(parser, "validate::dataset", "train::dataset")
        _run(parser, "train::trainer")


def evaluate() -> None:
    """Check everything, then evaluate; to be called in ``run``.

    Raises:
        SystemExit: with one line when there is an :class:`InputError`; all other errors pass.
    """
    with one_line_errors():
        parser = _parser()
        _check_numbers(parser)
        _check_pairs(parser, "validate")
        _check_output(parser, "output_dir")
        _make(parser, "loss", "network", "initial_weights", "validate::dataset")
        _run(parser, "validate::evaluator")


def _parser() -> ConfigParser:
    parser = caller(ConfigParser)
    if parser is None:
        raise RuntimeError("train and evaluate are for expressions in a bundle's configuration")
    return parser


def _make(parser: ConfigParser, *ids: str) -> None:
    """Make parts of the configuration; an option that a part refuses is the user's, not a fault of the program.

    Raises:
        InputError: in place of a ValueError or TypeError.
    """
    for id in ids:
        try:
            parser.get_parsed_content(id)
        except Exception as error:
            chain = list(_causes(error))
            if any(isinstance(link, InputError) for link in chain) or not isinstance(chain[-1], ValueError | TypeError):
                raise
            raise InputError(f"{id.replace('::', ' ')} cannot be made: {chain[-1]}") from error


def _run(parser: ConfigParser, engine: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # MONAI's bending energy, in every step
        parser.get_parsed_content(engine).run()


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _check_numbers(parser: ConfigParser) -> None:
    values = {name: parser.get_parsed_content(name) for name in (*WHOLE, *POSITIVE)}
    for name, value in values.items():
        _check_number(name, value)
    if values["val_interval"] > values["epochs"]:
        raise InputError(
            f"val_interval {values['val_interval']} is more than epochs {values['epochs']}: nothing would be saved"
        )


def _check_number(name: str, value: Any) -> None:
    if value is None and name in OPTIONAL:
        return
    kinds = int if name in WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not WHOLE.get(name, 1e-300) <= value < math.inf:
        wanted = f"a whole number, {WHOLE[name]} or more" if name in WHOLE else "a positive number"
        raise InputError(f"{name} must be {wanted}, got {value!r}")


def _check_pairs(parser: ConfigParser, *sections: str) -> None:
    everything = []
    for section in sections:
        found = parser.get_parsed_content(f"{section}::dataset::data")
        if not found:
            raise InputError("no images; give --datalist, a JSON file with a list of subjects under training (and validation)")
        if len(found) < world_size():
            raise InputError(f"there are {len(found)} pairs to {section} with for {world_size()} processes; start fewer")
        everything += found
    check_training_pairs(everything, *(parser.get_parsed_content(id) for id in ("spacing", "preset")))
    dims, wanted = read_image(everything[0]["fixed"], "fixed")[0].ndim - 1, parser.get_parsed_content("spatial_dims")
    if dims != wanted:
        raise InputError(
            f"{everything[0]['fixed']}: is {dims}-D, and the network is for {wanted}-D images; give --spatial_dims {dims}"
        )


def _check_output(parser: ConfigParser, *ids: str) -> None:
    for id in ids:
        folder = within(parser.get_parsed_content(id), "")
        if folder is None and id != "tf_dir":
            raise InputError(f"{id} must be the name of a folder")
        if folder is not None and rank() == 0:  # the one that writes
            check_writable(Path(folder))
    if "tf_dir" in ids and parser.get_parsed_content("log_dir") and importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is missing: pip install 'monai-locor[train]', or do without by --tf_dir none")
