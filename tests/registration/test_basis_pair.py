# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learned bases in files and in losses."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.registration.basis_pair import BasisPair

SIZES = {"in_channels": 2, "num_basis": 4, "hidden_channels": (7, 3)}
SETTINGS = {"derivative": "basis", "num_basis": 4, "hidden_channels": (7, 3)}


def losses(dims: int = 3, **options) -> list[LocalLearnedBasisCRLoss]:
    """Two losses that differ from those of any other call."""
    return [LocalLearnedBasisCRLoss(dims, **{**SIZES, **options}) for _ in range(2)]


@pytest.fixture
def bases() -> BasisPair:
    return BasisPair.of(*losses(), quantile=0.001, limits=(-0.25, 1.25), contrasts=("T1", "FLAIR"))


def same(a: BasisPair, b: BasisPair) -> bool:
    weights = [
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in ((a.forward, b.forward), (a.inverse, b.inverse))
    ]
    return all(weights) and a.description() == b.description()


def refusal(function, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFiles:
    @pytest.fixture(autouse=True)
    def package(self):
        pytest.importorskip("safetensors")

    @pytest.mark.parametrize("name", ["a.safetensors", "a", "new/folder/flair.v1.t1"])
    def test_what_was_saved_comes_back(self, bases, tmp_path, name):
        paths = bases.save(tmp_path / name)
        assert [p.suffix for p in paths] == [".safetensors", ".json"] and sorted(paths[0].parent.iterdir()) == sorted(paths)
        assert all(p.stem == name.split("/")[-1].removesuffix(".safetensors") for p in paths)
        for path in (tmp_path / name, paths[0], str(paths[0])):
            found = BasisPair.load(path)
            assert same(found, bases) and found.contrasts == ("T1", "FLAIR") and found.hidden_channels == (7, 3)

    def test_without_names_and_normalization(self, tmp_path):
        bases = BasisPair.of(*losses(in_channels=1))
        bases.save(tmp_path / "a")
        found = BasisPair.load(tmp_path / "a")
        assert same(found, bases) and (found.contrasts, found.quantile, found.limits) == (None, None, None)
        assert found.derivative == "none"

    def test_the_description_can_be_read(self, bases, tmp_path):
        told = json.loads(bases.save(tmp_path / "a")[1].read_text(encoding="utf-8"))
        assert told["contrasts"] == {"moving": "T1", "fixed": "FLAIR"} and told["num_basis"] == 4
        assert told["normalization"]["quantile"] == 0.001 and told["normalization"]["limits"] == [-0.25, 1.25]
        assert told["channels"][0] == "intensity" and len(told["channels"]) == 2

    @pytest.mark.parametrize("missing", [0, 1])
    def test_a_missing_file_is_named(self, bases, tmp_path, missing):
        path = bases.save(tmp_path / "a")[missing]
        path.unlink()
        assert f"{path}: no such file" in refusal(BasisPair.load, tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("a.safetensors", b"no weights", "not a safetensors file"),
            ("a.json", b"{", "not a JSON file"),
            ("a.json", b"[]", "expected an object"),
            ("a.json", b"{}", "no 'format'"),
        ],
    )
    def test_other_files(self, bases, tmp_path, name, content, told):
        bases.save(tmp_path / "a")
        (tmp_path / name).write_bytes(content)
        message = refusal(BasisPair.load, tmp_path / "a")
        assert told in message and str(tmp_path / name) in message

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("num_basis", 5, "does not fit a.json"),
            ("hidden_channels", [7], "does not fit a.json"),
            ("hidden_channels", None, "does not describe"),
            ("normalization", "none", "does not describe"),
            ("format", "monai_locor learned bases 2", "this version reads"),
        ],
    )
    def test_a_description_of_something_else(self, bases, tmp_path, key, value, told):
        path = bases.save(tmp_path / "a")[1]
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
        assert told in refusal(BasisPair.load, tmp_path / "a")

    def test_weights_of_something_else(self, bases, tmp_path):
        import safetensors.torch

        path = bases.save(tmp_path / "a")[0]
        for tensors in ({"other.weight": torch.ones(2)}, {"forward.layers.0.weight": torch.ones(7, 2)}):
            path.write_bytes(safetensors.torch.save(tensors))
            assert "does not fit" in refusal(BasisPair.load, path)
        path.write_bytes(safetensors.torch.save({"forward.layers.0.weight": torch.full((7, 2), torch.nan)}))
        assert "NaN" in refusal(BasisPair.load, path)

    @pytest.mark.parametrize("name", ["", "folder/"])
    def test_a_folder_is_no_name(self, bases, name):
        assert "folder" in refusal(bases.save, name)

    def test_a_file_in_the_way_is_named(self, bases, tmp_path):
        (tmp_path / "file").touch()
        assert str(tmp_path / "file") in refusal(bases.save, tmp_path / "file" / "a")


@pytest.mark.parametrize("module", ["safetensors", "safetensors.torch"])
def test_without_safetensors_the_extra_is_named(bases, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    for function in (bases.save, BasisPair.load):
        with pytest.raises(ImportError, match=r"pip install 'monai-locor\[formats\]'"):
            function(tmp_path / "a")
    assert not list(tmp_path.iterdir())


class TestLosses:
    def test_a_loss_that_takes_them_is_the_one_they_come_from(self):
        old, new = losses(), losses()
        images = torch.rand(2, 1, 2, 8, 9, 7)
        values = [loss.eval()(*images) for loss in old]
        assert not torch.equal(new[0].eval()(*images), values[0])
        BasisPair.of(*old).load_into(*new)
        assert all(torch.equal(loss.eval()(*images), value) for loss, value in zip(new, values, strict=True))

    def test_they_are_the_same_in_two_dimensions_and_one_loss_takes_the_forward_one(self):
        bases, (loss, _) = BasisPair.of(*losses(3)), losses(2)
        bases.load_into(loss)
        assert torch.equal(loss.basis.layers[1].weight, bases.forward["layers.1.weight"])

    def test_neither_follows_what_the_other_learns(self):
        pair = losses()
        bases = BasisPair.of(*pair)
        kept = dataclasses.replace(bases, forward={name: value.clone() for name, value in bases.forward.items()})
        for _ in range(2):
            with torch.no_grad():
                for parameter in pair[0].parameters():
                    parameter.add_(1)
            assert same(bases, kept)
            bases.load_into(*pair)

    def test_swapping_exchanges_everything_and_twice_nothing(self, bases):
        once = bases.swapped()
        assert once.forward is bases.inverse and once.inverse is bases.forward and once.contrasts == ("FLAIR", "T1")
        assert not same(once, bases) and same(once.swapped(), bases)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"num_basis": 5}, ["num_basis 4", "num_basis 5"]),
            ({"in_channels": 1}, ["in_channels 2", "in_channels 1"]),
            ({"hidden_channels": (16,)}, ["hidden_channels (7, 3)", "hidden_channels (16,)"]),
            ({"basis": "polynomial"}, ["PolynomialBasis"]),
        ],
    )
    def test_another_basis_is_refused_and_nothing_loaded(self, bases, options, told):
        first, second = losses()[0], losses(**options)[1]
        before = first.basis.layers[0].weight.clone()
        message = refusal(bases.load_into, first, second)
        assert all(words in message for words in told) and torch.equal(first.basis.layers[0].weight, before)

    def test_what_is_no_learned_basis_cannot_be_taken(self):
        with pytest.raises(ValueError, match="PolynomialBasis"):
            BasisPair.of(*losses(basis="polynomial"))
        with pytest.raises(ValueError, match="inverse basis has weights"):
            BasisPair.of(losses()[0], losses(num_basis=5)[0])


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [
        ("derivative", "none", "'basis'"),
        ("derivative", "both", "'basis'"),
        ("num_basis", 3, "4"),
        ("hidden_channels", (7,), "(7, 3)"),
        ("basis", "polynomial", "'learned'"),
    ],
)
def test_settings_of_another_basis_are_refused(bases, name, value, own):
    bases.check(**SETTINGS)
    message = refusal(bases.check, **{**SETTINGS, name: value})
    assert f"{name} {own}" in message and f"{name} {value!r}" in message
