# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The paper's parameters, and the settings made from them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from monai_locor import InputError, RegistrationConfig
from monai_locor.losses.bending import bending_energy
from monai_locor.registration.similarity import SIMILARITIES, make_similarity
from monai_locor.tuning import MEASURES, search_space

LOG = {"learning_rate_affine": (1e-3, 1e-1), "learning_rate_dense": (1e-3, 1e-1)}


def config(similarity: str = "locor", **changes) -> RegistrationConfig:
    return RegistrationConfig.of({"similarity": similarity, **changes})


def bounds(base: RegistrationConfig, dims: int = 3) -> dict[str, tuple[float, float]]:
    return {name: (p.low, p.high) for name, p in search_space(base, dims).parameters.items() if name != "bending_weight"}


def test_the_papers_bounds():
    assert bounds(config()) == {
        **LOG,
        "learning_rate_basis": (1e-3, 1e-1),
        "kernel_sigma": (0.35, 4.0),
        "num_basis": (1, 5),
    }
    polynomial = {**LOG, "kernel_sigma": (0.35, 4.0)}
    assert bounds(config(basis="polynomial", derivative="none")) == {**polynomial, "degree": (1, 5)}
    assert bounds(config(basis="polynomial", derivative="both")) == {**polynomial, "degree": (1, 3)}
    assert bounds(config("mutual_information")) == {**LOG, "num_bins": (10, 24), "quantile": (0.0, 0.05)}
    assert bounds(config("mind_ssc")) == LOG
    assert bounds(config("srwcr")) == {**LOG, "spacing": (3, 5)}
    assert bounds(config("mind_ssc", affine=False)) == {"learning_rate_dense": (1e-3, 1e-1)}


def test_every_measure_of_the_engine_has_a_space():
    assert set(SIMILARITIES) <= set(MEASURES)
    searched = {name for parameters in MEASURES.values() for name in (p.name for p in parameters)}
    assert {p.name for p in search_space(config()).parameters.values() if p.log} <= searched


@pytest.mark.parametrize("dims", [2, 3])
def test_the_weight_of_the_bending_energy_is_the_papers(dims):
    """Both energies written out for a random quadratic displacement, whose second derivatives are the same everywhere."""
    parameter = search_space(config(), dims).parameters["bending_weight"]
    second = torch.randn(dims, dims, dims, dtype=torch.float64)
    second = (second + second.transpose(1, 2)) / 2  # component, axis, axis: in 1/mm
    reg, spacing, step = 1e4, 3.0, 2.0
    terms = [(1 if i == j else 2) * float(second[:, i, j].square().mean()) for i in range(dims) for j in range(i, dims)]
    paper = 0.5 * reg * spacing**2 * sum(terms) / dims**2  # the mean of this and of zero, for the other direction
    x = torch.stack(torch.meshgrid([torch.arange(5.0, dtype=torch.float64) * step] * dims, indexing="ij"))
    u = 0.5 * torch.einsum("kij,i...,j...->k...", second, x, x)
    ours = parameter.high * (spacing / step) ** 2 * float(bending_energy(u[None] / step))  # as the engine has it
    assert ours == pytest.approx(paper, rel=1e-3)  # the bound is rounded
    assert parameter.high / parameter.low == pytest.approx(1e5, rel=1e-3) and parameter.log


def test_values_become_settings():
    space = search_space(config())
    values = {"bending_weight": 12.34567, "kernel_sigma": 1.23456, "num_basis": 3, "learning_rate_basis": 0.05}
    found = space.settings(values)
    assert found == dataclasses.replace(
        space.base, bending_weight=12.35, kernel_sigma=1.235, num_basis=3, learning_rate_basis=0.05
    )
    assert space.settings({}) == space.base


def test_learning_rates_scale_the_schedule():
    base = config()
    found = search_space(base).settings({"learning_rate_dense": 0.16, "learning_rate_affine": 0.01})
    assert found.learning_rate_affine == 0.01
    before, after = (
        {kind: [s.learning_rate for s in c.stages if (s.spacing is None) == kind] for kind in (True, False)}
        for c in (base, found)
    )
    assert before[False] == [0.32, 0.32, 0.16, 0.16] and after[False] == [0.64, 0.64, 0.32, 0.32]
    assert before[True] == [0.015, 0.0075] and after[True] == [0.03, 0.015]
    assert [s.iterations for s in found.stages] == [s.iterations for s in base.stages]
    bare = config(stages=[{"factor": 1, "iterations": 1, "spacing": 4}])
    assert search_space(bare).settings({"learning_rate_dense": 0.02}).stages[0].learning_rate == 0.02


@pytest.mark.parametrize("measure", [*MEASURES, "form"])
def test_both_ends_of_every_space_can_be_registered_with(measure):
    changes = {"locor, polynomial": {"basis": "polynomial"}, "form": {"form": "normalized"}}.get(measure, {})
    base = config(measure if measure in SIMILARITIES else "locor", **changes)
    space = search_space(base)
    for end in ("low", "high"):
        values = {name: getattr(p, end) for name, p in space.parameters.items()}
        loss = make_similarity(space.settings(values), 3)
        for name in {"num_bins", "quantile", "spacing"} & set(values):
            assert getattr(loss, name) == values[name]
        assert getattr(loss, "rescale", None) or "quantile" not in values
    if "degree" in values:
        assert loss.basis.degree == 3


def test_the_base_settings_are_a_point_of_the_space():
    base = search_space(config()).of_base()
    assert base == {
        "bending_weight": 120.0,
        "learning_rate_affine": 5e-3,
        "learning_rate_dense": 8e-2,
        "learning_rate_basis": 1e-2,
        "kernel_sigma": 0.8,
        "num_basis": 5,
    }
    assert search_space(config()).settings(base) == config(bending_weight=120.0)
    assert "num_basis" not in search_space(config(num_basis=9)).of_base()  # outside
    assert search_space(config("local_parzen_cr")).of_base().items() >= {"num_bins": 16, "kernel_sigma": 2.0}.items()
    assert "num_bins" not in search_space(config("correlation_ratio")).of_base()  # 32
    options = {"num_bins": 12, "quantile": 0.02}
    assert options.items() <= search_space(config("mutual_information", similarity_options=options)).of_base().items()


def test_coordinates_are_between_zero_and_one():
    space = search_space(config(), parameters=["learning_rate_basis", "num_basis"])
    assert space.unit({"learning_rate_basis": 1e-2, "num_basis": 1}) == pytest.approx([0.5, 0.0])
    assert space.unit({"learning_rate_basis": 1e-1, "num_basis": 3}) == pytest.approx([1.0, 0.5])


def test_a_part_of_it_and_other_bounds():
    space = search_space(
        config(), parameters=["kernel_sigma", "num_basis"], ranges={"kernel_sigma": (0.5, 2), "num_basis": (2, 8)}
    )
    assert list(space.parameters) == ["kernel_sigma", "num_basis"]
    assert (space.parameters["kernel_sigma"].low, space.parameters["num_basis"].high) == (0.5, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ["sigma"]}, "unknown parameters: sigma; locor has bending_weight, .*kernel_sigma, num_basis"),
        ({"ranges": {"num_bins": (1, 2)}}, "unknown parameters: num_bins; locor has"),
        ({"ranges": {"kernel_sigma": (2, 1)}}, "kernel_sigma: 2 to 1; give two finite numbers, the smaller one first"),
        ({"ranges": {"kernel_sigma": (1, math.nan)}}, "kernel_sigma: 1 to nan"),
        ({"ranges": {"bending_weight": (0, 1)}}, "bending_weight must be positive"),
        ({"ranges": {"num_basis": (1.5, 3)}}, "num_basis is an integer with step 1"),
        ({"parameters": ["num_basis"], "ranges": {"kernel_sigma": (1, 2)}}, "not one of the searched parameters"),
        ({"parameters": []}, "no parameter to search"),
    ],
)
def test_invalid_spaces_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        search_space(config(), **options)


def test_a_custom_measure_has_no_space():
    with pytest.raises(InputError, match="'custom' has no search space; use one of locor, "):
        search_space(config("custom"))
    with pytest.raises(InputError, match="unknown parameters: sigma; locor has"):
        search_space(config()).settings({"sigma": 1})
