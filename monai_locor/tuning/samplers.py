# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Choice of the Optuna sampler that proposes trials."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLERS", "check_sampler", "import_optuna", "make_sampler"]

logger = logging.getLogger(__name__)

SAMPLERS = ("auto", "hebo", "gp", "tpe", "random")
HEBO_MODULE = "samplers/hebo"  # on OptunaHub
MISSING_PACKAGES = "tuning needs Optuna and scikit-learn: pip install 'monai-locor[tune]'"
NUM_STARTUP_TRIALS = 10  # random ones, before the Gaussian process


def import_optuna() -> Any:
    """Import Optuna.

    Raises:
        ImportError: if Optuna or scikit-learn is missing; the message names the extra to install.
    """
    try:
        import optuna
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING_PACKAGES) from error
    return optuna


def check_sampler(name: str) -> None:
    """Check the name of a sampler and that the required packages are installed, without importing them.

    Raises:
        InputError: for an unknown name.
        ImportError: if Optuna or scikit-learn is missing; the message names the extra to install.
    """
    _check_name(name)
    if find_spec("optuna") is None or find_spec("sklearn") is None:
        raise ImportError(MISSING_PACKAGES)


def _check_name(name: str) -> None:
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is unknown; choose from {', '.join(SAMPLERS)}")


def make_sampler(name: str, seed: int, trials: int = 0, parallel: bool = False) -> tuple[str, optuna.samplers.BaseSampler]:
    """Create a sampler. Returns its name and the sampler.

    The paper uses HEBO (Cowen-Rivers et al. 2022, doi 10.1613/jair.1.13643). It is on OptunaHub, is downloaded on first use
    and needs the packages optunahub and hebo (which requires NumPy 1). Its proposals are not fully reproducible, even with a
    fixed seed. The others are part of Optuna: Gaussian process ("gp"), tree-structured Parzen estimator ("tpe"), random.

    Args:
        name: one of :data:`SAMPLERS`; ``"auto"`` is HEBO if available, else the Gaussian process.
        seed: seed of the search.
        trials: number of trials already in the study, so that a resumed search does not repeat its random numbers.
        parallel: whether several trials run at the same time.

    Raises:
        InputError: for an unknown name, and if HEBO is requested but not available.
    """
    _check_name(name)
    optuna = import_optuna()
    own = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0] % 2**31)
    if name in ("auto", "hebo"):
        try:
            return "hebo", _hebo(own, parallel)
        except Exception as error:  # network errors, or incompatible package versions
            reason = " ".join(str(error).split())[:200]
            if name == "hebo":
                raise InputError(
                    f"sampler 'hebo': not available ({reason}); pip install optunahub hebo, or choose gp"
                ) from error
            logger.info("the HEBO sampler is not available (%s); using Optuna's Gaussian process", reason)
            name = "gp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            random = optuna.samplers.RandomSampler(seed=own)
            return name, optuna.samplers.GPSampler(seed=own, n_startup_trials=NUM_STARTUP_TRIALS, independent_sampler=random)
        if name == "tpe":
            return name, optuna.samplers.TPESampler(
                seed=own, n_startup_trials=NUM_STARTUP_TRIALS, multivariate=True, constant_liar=parallel
            )
        return name, optuna.samplers.RandomSampler(seed=own)


def _hebo(seed: int, parallel: bool) -> optuna.samplers.BaseSampler:
    missing = [name for name in ("optunahub", "hebo") if find_spec(name) is None]
    if missing:
        raise ImportError(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed")
    import optunahub

    # without an explicit search space it rereads the study for each trial, so a study can be resumed
    sampler: optuna.samplers.BaseSampler = optunahub.load_module(HEBO_MODULE).HEBOSampler(seed=seed, constant_liar=parallel)
    return sampler
