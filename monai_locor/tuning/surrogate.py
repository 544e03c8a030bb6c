# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surrogate of noisy scores: the mean of several Gaussian process fits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

__all__ = ["NUM_REFITS", "Surrogate"]

NUM_REFITS = 50  # as in the paper
LENGTH_BOUNDS, AMPLITUDE_BOUNDS, NOISE_BOUNDS = (5e-2, 1e2), (1e-2, 1e2), (1e-4, 1.0)  # of the kernel's parameters
INITIAL_LENGTHS, INITIAL_NOISES = (0.1, 3.0), (1e-2, 0.5)  # ranges of the random starts of a fit


class Surrogate:
    """Mean of the posterior means of several Gaussian processes.

    As in HEBO, the scores are first transformed to be approximately normal (Yeo & Johnson 2000), so that failed runs do not
    dominate the fit. Each process has a Matern 5/2 kernel with one length scale per parameter, plus noise. Its parameters
    maximize the marginal likelihood from a random start.

    Args:
        points: ``(N, P)`` in [0, 1].
        values: ``(N,)``, scores.
        refits: number of Gaussian processes.
        seed: seed of the random starts.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray, refits: int = NUM_REFITS, seed: int = 0) -> None:
        points, values = np.atleast_2d(np.asarray(points, dtype=float)), np.asarray(values, dtype=float)
        self._middle, self._spread = float(values.mean()), float(values.std())
        self._models: list[Any] = []
        if len(values) < 2 or self._spread <= 1e-12 * max(1.0, abs(self._middle)):
            return  # all scores are equal
        from sklearn.preprocessing import PowerTransformer

        self._transform = PowerTransformer()  # Yeo-Johnson, then to mean 0 and variance 1
        column = ((values - self._middle) / self._spread)[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about reached bounds and missing convergence
            targets = self._transform.fit_transform(column)[:, 0]
            rng = np.random.default_rng(seed)
            self._models = [_fitted(points, targets, rng) for _ in range(refits)]

    def order(self, points: np.ndarray) -> list[int]:
        """Indices of points ``(M, P)`` sorted by expected score, lowest first."""
        return [int(i) for i in np.argsort(self._posterior(points), kind="stable")]

    def _posterior(self, points: np.ndarray) -> np.ndarray:
        """Mean of the posterior means of the transformed scores, ``(M,)``."""
        points = np.atleast_2d(np.asarray(points, dtype=float))
        means = [model.predict(points) for model in self._models] or [np.zeros(len(points))]
        return np.asarray(np.mean(means, axis=0))

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Expected scores ``(M,)`` at points ``(M, P)``."""
        mean = self._posterior(points)
        if not self._models:
            return mean + self._middle
        # the inverse transform is bounded, so predictions are clipped to the range of the observed scores
        low, high = (float(v) for v in self._limits)
        found = self._transform.inverse_transform(np.clip(mean, low, high)[:, None])[:, 0]
        return np.asarray(found * self._spread + self._middle)

    @property
    def _limits(self) -> tuple[float, float]:
        targets = self._models[0].y_train_
        return targets.min(), targets.max()


def _fitted(points: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths, noise = _log_uniform(rng, INITIAL_LENGTHS, points.shape[1]), float(_log_uniform(rng, INITIAL_NOISES, 1)[0])
    kernel = ConstantKernel(1.0, AMPLITUDE_BOUNDS) * Matern(lengths, LENGTH_BOUNDS, nu=2.5) + WhiteKernel(noise, NOISE_BOUNDS)
    return GaussianProcessRegressor(kernel, alpha=1e-8).fit(points, targets)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], count: int) -> np.ndarray:
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, count))
