# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images described by plain values, so that one process can draw them and another make them."""

from __future__ import annotations

from typing import Any

import numpy as np

VALUES = (
    "texture",
    "noise",
    "constant",
    "zero",
    "huge",
    "tiny",
    "denormal",
    "outlier",
    "nan",
    "half_nan",
    "inf",
    "labels",
    "mask",
)
DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int16", "uint16", "int32", "int64", "bool", "complex64")
AFFINES = (
    *("identity", "oblique", "flipped", "permuted", "sheared", "anisotropic", "micrometers", "far", "meters"),
    *("singular", "nearly_singular", "nan", "inf", "huge", "denormal"),
)


def made(spec: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(*shape)`` and affine ``(D + 1, D + 1)``.

    Args:
        spec: ``shape``, ``values``, ``dtype`` and ``affine``, see the constants of this module, and a ``seed``.
    """
    rng, shape = np.random.default_rng(spec["seed"]), tuple(spec["shape"])
    with np.errstate(all="ignore"):
        return _values(spec["values"], shape, rng).astype(spec["dtype"]), _affine(spec["affine"], len(shape), rng)


def _values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    phase = rng.uniform(0, 6, len(shape))
    texture = 100 + 50 * sum(np.sin(7 * x + p) for x, p in zip(axes, phase)) + rng.normal(size=shape)
    made_by = {
        "texture": lambda: texture,
        "noise": lambda: rng.normal(size=shape),
        "constant": lambda: np.full(shape, 7.0),
        "zero": lambda: np.zeros(shape),
        "huge": lambda: texture * 1e36,
        "tiny": lambda: texture * 1e-36,
        "denormal": lambda: texture * 1e-43,
        "outlier": lambda: np.where(rng.random(shape) < 1e-3, 1e30, texture),
        "nan": lambda: np.where(rng.random(shape) < 0.1, np.nan, texture),
        "half_nan": lambda: np.where(axes[0] < 0.45, np.nan, texture),
        "inf": lambda: np.where(rng.random(shape) < 0.05, rng.choice([np.inf, -np.inf]), texture),
        "labels": lambda: np.floor(texture / 40),
        "mask": lambda: (texture > 100).astype(float),
    }
    return np.asarray(made_by[kind](), dtype=np.float64)


def _affine(kind: str, dims: int, rng: np.random.Generator) -> np.ndarray:
    linear, origin = np.eye(dims), rng.uniform(-50, 50, dims)
    turn = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    shear = np.eye(dims) + np.triu(rng.uniform(-0.5, 0.5, (dims, dims)), 1)
    linear = {
        "oblique": turn,
        "flipped": np.diag([-1.0, *[1.0] * (dims - 1)]),
        "permuted": np.roll(np.eye(dims), 1, 0),
        "sheared": turn @ shear,
        "anisotropic": np.diag([0.5, 0.5, 6.0][:dims]),
        "micrometers": 1e-3 * turn,
        "meters": 1e3 * turn,
        "singular": np.diag([*[1.0] * (dims - 1), 0.0]),
        "nearly_singular": turn @ np.diag([*[1.0] * (dims - 1), 1.0]) + 1e7 * np.ones((dims, dims)),
        "nan": np.full((dims, dims), np.nan),
        "inf": np.diag([np.inf, *[1.0] * (dims - 1)]),
        "huge": 1e30 * turn,
        "denormal": 1e-320 * turn,
    }.get(kind, linear)
    affine = np.eye(dims + 1)
    affine[:-1, :-1], affine[:-1, -1] = linear, origin * (1e9 if kind == "far" else 1)
    return affine
