# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which of Optuna's samplers proposes what to try next."""

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
HEBO = "samplers/hebo"  # its place on OptunaHub
NEEDED = "tuning needs Optuna and scikit-learn: pip install 'monai-locor[tune]'"
STARTUP = 10  # random trials before the Gaussian process


def import_optuna() -> Any:
    """Optuna.

    Raises:
        ImportError: when it, or scikit-learn, is not installed, naming the extra that brings them.
    """
    try:
        import optuna
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(NEEDED) from error
    return optuna


def check_sampler(name: str) -> None:
    """Refuse a sampler that there is not, and a search without the packages that it needs, without loading them.

    Raises:
        InputError: for an unknown name.
        ImportError: without Optuna or scikit-learn, naming the extra that brings them.
    """
    _check_name(name)
    if find_spec("optuna") is None or find_spec("sklearn") is None:
        raise ImportError(NEEDED)


def _check_name(name: str) -> None:
    if name not in SAMPLERS:
        raise InputError(f"sampler {name!r} is unknown; choose from {', '.join(SAMPLERS)}")


def make_sampler(name: str, seed: int, trials: int = 0, parallel: bool = False) -> tuple[str, optuna.samplers.BaseSampler]:
    """A sampler, and its name.

    HEBO (Cowen-Rivers et al. 2022, doi 10.1613/jair.1.13643), the paper's, is on OptunaHub, and needs the packages optunahub
    and hebo (which wants NumPy 1); it is got over the network when it is used first. Its proposals differ a little from run to
    run, whatever the seed. The others are Optuna's own: a Gaussian process ("gp"), trees of Parzen estimators ("tpe").

    Args:
        name: of :data:`SAMPLERS`; ``"auto"`` is HEBO where it can be had, else the Gaussian process.
        seed: of the search.
        trials: that the study has already: a search that is continued does not draw the same numbers again.
        parallel: whether several trials run at once.

    Raises:
        InputError: for an unknown name, and when HEBO is asked for and cannot be had.
    """
    _check_name(name)
    optuna = import_optuna()
    own = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0] % 2**31)
    if name in ("auto", "hebo"):
        try:
            return "hebo", _hebo(own, parallel)
        except Exception as error:  # of the network, or of packages that do not go together
            reason = " ".join(str(error).split())[:200]
            if name == "hebo":
                raise InputError(
                    f"sampler 'hebo': cannot be had ({reason}); pip install optunahub hebo, or choose gp"
                ) from error
            logger.info("the HEBO sampler cannot be had (%s), Optuna's Gaussian process takes its place", reason)
            name = "gp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            random = optuna.samplers.RandomSampler(seed=own)
            return name, optuna.samplers.GPSampler(seed=own, n_startup_trials=STARTUP, independent_sampler=random)
        if name == "tpe":
            return name, optuna.samplers.TPESampler(
                seed=own, n_startup_trials=STARTUP, multivariate=True, constant_liar=parallel
            )
        return name, optuna.samplers.RandomSampler(seed=own)


def _hebo(seed: int, parallel: bool) -> optuna.samplers.BaseSampler:
    missing = [name for name in ("optunahub", "hebo") if find_spec(name) is None]
    if missing:
        raise ImportError(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed")
    import optunahub

    # without a search space of its own it reads the study anew each time, so that a study can be continued
    sampler: optuna.samplers.BaseSampler = optunahub.load_module(HEBO).HEBOSampler(seed=seed, constant_liar=parallel)
    return sampler
