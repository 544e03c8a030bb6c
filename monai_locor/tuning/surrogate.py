# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A smooth picture of noisy scores: Gaussian processes, fitted again and again, and the mean of what they say."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

__all__ = ["REFITS", "Surrogate"]

REFITS = 50  # as in the paper
LENGTHS, AMPLITUDES, NOISES = (5e-2, 1e2), (1e-2, 1e2), (1e-4, 1.0)  # where the kernel's parameters may lie
FIRST_LENGTHS, FIRST_NOISES = (0.1, 3.0), (1e-2, 0.5)  # where a fit begins


class Surrogate:
    """The mean of the posterior means of several Gaussian processes.

    The scores are first made about normal (Yeo & Johnson 2000), as HEBO does: a run that went astray must not bend the rest.
    Each process has a Matern kernel (5/2) with a length for every parameter, and noise; their parameters maximize the marginal
    likelihood, from a random start each time.

    Args:
        points: ``(N, P)`` in [0, 1].
        values: ``(N,)``, scores.
        refits: number of processes.
        seed: of their starts.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray, refits: int = REFITS, seed: int = 0) -> None:
        points, values = np.atleast_2d(np.asarray(points, dtype=float)), np.asarray(values, dtype=float)
        self._middle, self._spread = float(values.mean()), float(values.std())
        self._models: list[Any] = []
        if len(values) < 2 or self._spread <= 1e-12 * max(1.0, abs(self._middle)):
            return  # nothing to tell apart
        from sklearn.preprocessing import PowerTransformer

        self._warp = PowerTransformer()  # Yeo-Johnson, then to mean 0 and variance 1
        column = ((values - self._middle) / self._spread)[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bounds that were reached, steps that did not converge
            targets = self._warp.fit_transform(column)[:, 0]
            rng = np.random.default_rng(seed)
            self._models = [_fitted(points, targets, rng) for _ in range(refits)]

    def order(self, points: np.ndarray) -> list[int]:
        """Which of some points ``(M, P)`` have the lowest score to be expected, the lowest first."""
        return [int(i) for i in np.argsort(self._posterior(points), kind="stable")]

    def _posterior(self, points: np.ndarray) -> np.ndarray:
        """Mean of the posterior means, of warped scores, ``(M,)``."""
        points = np.atleast_2d(np.asarray(points, dtype=float))
        means = [model.predict(points) for model in self._models] or [np.zeros(len(points))]
        return np.asarray(np.mean(means, axis=0))

    def mean(self, points: np.ndarray) -> np.ndarray:
        """What score to expect, ``(M,)`` of ``(M, P)``."""
        mean = self._posterior(points)
        if not self._models:
            return mean + self._middle
        # the inverse of the warp ends where no score can lie; beyond what was seen is nothing to be said anyway
        low, high = (float(v) for v in self._limits)
        found = self._warp.inverse_transform(np.clip(mean, low, high)[:, None])[:, 0]
        return np.asarray(found * self._spread + self._middle)

    @property
    def _limits(self) -> tuple[float, float]:
        targets = self._models[0].y_train_
        return targets.min(), targets.max()


def _fitted(points: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths, noise = _log_uniform(rng, FIRST_LENGTHS, points.shape[1]), float(_log_uniform(rng, FIRST_NOISES, 1)[0])
    kernel = ConstantKernel(1.0, AMPLITUDES) * Matern(lengths, LENGTHS, nu=2.5) + WhiteKernel(noise, NOISES)
    return GaussianProcessRegressor(kernel, alpha=1e-8).fit(points, targets)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], count: int) -> np.ndarray:
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, count))
