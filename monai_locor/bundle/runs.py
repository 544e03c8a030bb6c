# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Check all inputs, then train or evaluate."""

from __future__ import annotations

import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

from monai.utils import set_determinism

from ..data.datalist import check_writable
from ..data.training_pairs import check_training_pairs
from ..errors import InputError
from ..io import read_image
from .configuration import Configuration
from .one_line import one_line_errors
from .options import path_in
from .processes import rank, world_size

__all__ = ["evaluate", "set_seed", "train"]

# options by kind: whole numbers with their minimum, positive numbers, and those that may be None
WHOLE_NUMBERS = {
    "batch_size": 1,
    "epochs": 1,
    "pairs_per_epoch": 1,
    "val_interval": 1,
    "picture_interval": 1,
    "early_stop_patience": 0,
    "num_workers": 0,
    "seed": 0,
}
POSITIVE_NUMBERS = ("spacing", "lr", "basis_lr", "lr_decay")
OPTIONAL_NUMBERS = ("pairs_per_epoch", "early_stop_patience")


def set_seed(seed: Any) -> None:
    """Seed the random numbers before the first epoch; to be called in ``initialize``.

    Raises:
        SystemExit: with one line for an invalid seed.
    """
    with one_line_errors():
        _check_number("seed", seed)
        set_determinism(seed)


def train(configuration: Configuration) -> None:
    """Check all inputs, then train; to be called in ``run``.

    Raises:
        SystemExit: with one line for an :class:`InputError`; all other errors pass.
    """
    with one_line_errors():
        _check_numbers(configuration)
        _check_pairs(configuration, "train", "validate")
        _check_output(configuration, "ckpt_dir", "tf_dir")
        # fast checks before slow ones
        configuration.make("loss", "network", "optimizer", "initial_weights", "resumed_weights")
        configuration.make("validate::dataset", "train::dataset")
        _run(configuration, "train::trainer")


def evaluate(configuration: Configuration) -> None:
    """Check all inputs, then evaluate; to be called in ``run``.

    Raises:
        SystemExit: with one line for an :class:`InputError`; all other errors pass.
    """
    with one_line_errors():
        _check_numbers(configuration)
        _check_pairs(configuration, "validate")
        _check_output(configuration, "output_dir")
        configuration.make("loss", "network", "initial_weights", "validate::dataset")
        _run(configuration, "validate::evaluator")


def _run(configuration: Configuration, engine: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # by MONAI's bending energy, in every step
        configuration.get(engine).run()


def _check_numbers(configuration: Configuration) -> None:
    values = {name: configuration.get(name) for name in (*WHOLE_NUMBERS, *POSITIVE_NUMBERS)}
    for name, value in values.items():
        _check_number(name, value)
    if values["val_interval"] > values["epochs"]:
        raise InputError(
            f"val_interval {values['val_interval']} is more than epochs {values['epochs']}: nothing would be saved"
        )


def _check_number(name: str, value: Any) -> None:
    if value is None and name in OPTIONAL_NUMBERS:
        return
    kinds = int if name in WHOLE_NUMBERS else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not WHOLE_NUMBERS.get(name, 1e-300) <= value < math.inf:
        wanted = f"a whole number, {WHOLE_NUMBERS[name]} or more" if name in WHOLE_NUMBERS else "a positive number"
        raise InputError(f"{name} must be {wanted}, got {value!r}")


def _check_pairs(configuration: Configuration, *sections: str) -> None:
    everything = []
    for section in sections:
        found = configuration.get(f"{section}::dataset::data")
        if not found:
            raise InputError("no images; give --datalist, a JSON file with a list of subjects under training (and validation)")
        if len(found) < world_size():
            raise InputError(f"there are {len(found)} pairs to {section} with for {world_size()} processes; start fewer")
        everything += found
    check_training_pairs(everything, *(configuration.get(id) for id in ("spacing", "preset")))
    dims, wanted = read_image(everything[0]["fixed"], "fixed")[0].ndim - 1, configuration.get("spatial_dims")
    if dims != wanted:
        raise InputError(
            f"{everything[0]['fixed']}: is {dims}-D, and the network is for {wanted}-D images; give --spatial_dims {dims}"
        )


def _check_output(configuration: Configuration, *ids: str) -> None:
    for id in ids:
        folder = path_in(configuration.get(id))
        if folder is None and id != "tf_dir":
            raise InputError(f"{id} must be the name of a folder")
        if folder is not None and rank() == 0:  # the only one that writes
            check_writable(Path(folder))
    if "tf_dir" in ids and configuration.get("log_dir") and importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is missing: pip install 'monai-locor[bundle]', or train without it by --tf_dir none")
