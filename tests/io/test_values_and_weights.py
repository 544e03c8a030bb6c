# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Weights beside their description, what damaged files say, and detection of labels and vectors from values."""

from __future__ import annotations

import json
import re
import zlib

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError, one_line
from monai_locor.io.basis_files import DIRECTIONS, basis_description, read_basis, write_basis
from monai_locor.io.content_detection import labels_in, not_whole, vectors_in
from monai_locor.io.read_errors import read_error
from monai_locor.io.weights import read_weights, weights_paths, write_weights

SETTINGS = {
    "in_channels": 2,
    "num_basis": 5,
    "hidden_channels": (16, 8),
    "derivative": "both",
    "quantile": 0.001,
    "limits": None,
    "contrasts": ("t1", "t2"),
    "version": "1.2",
}
STATES = {name: {"layers.0.weight": torch.rand(3, 2), "layers.0.bias": torch.rand(3)} for name in DIRECTIONS}


class TestWeights:
    pytestmark = pytest.mark.filterwarnings("error")

    @pytest.fixture(autouse=True)
    def _safetensors(self):
        pytest.importorskip("safetensors")

    @pytest.mark.parametrize("name", ["basis", "basis.v2", "basis.v2.safetensors", "folder/deep/basis"])
    def test_names_and_contents_come_back(self, tmp_path, name):
        tensors = {"a.b": torch.rand(2, 3), "c": torch.arange(4)}
        written = write_weights(tmp_path / name, tensors, {"x": [1, None]})
        assert tuple(written) == weights_paths(tmp_path / name) and all(path.is_file() for path in written)
        found, description = read_weights(tmp_path / name)
        assert description == {"x": [1, None]} and found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors)

    def test_a_name_with_and_without_suffix_is_the_same(self):
        assert weights_paths("a.b") == weights_paths("a.b.safetensors")

    @pytest.mark.parametrize("name", ["folder/", ""])
    def test_a_folder_is_refused(self, name):
        with pytest.raises(InputError, match="names a folder; give the name of a file"):
            weights_paths(name)

    @pytest.mark.parametrize("missing", [0, 1])
    def test_a_missing_file_of_the_two_is_named(self, tmp_path, missing):
        paths = write_weights(tmp_path / "w", {"a": torch.ones(1)}, {})
        paths[missing].unlink()
        with pytest.raises(InputError, match=re.escape(f"{paths[missing]}: no such file")):
            read_weights(tmp_path / "w")

    @pytest.mark.parametrize(
        ("which", "content", "message"),
        [
            (0, b"nonsense", "not a safetensors file .*; save it again"),
            (1, b"{", "not a JSON file .*; save it again"),
            (1, b"[1]", "expected an object, got list; save it again"),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path, which, content, message):
        paths = write_weights(tmp_path / "w", {"a": torch.ones(1)}, {})
        paths[which].write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(paths[which])) + ": " + message):
            read_weights(tmp_path / "w")

    def test_weights_that_are_not_finite_are_refused(self, tmp_path):
        write_weights(tmp_path / "w", {"a": torch.tensor([1.0, torch.nan])}, {})
        with pytest.raises(InputError, match="holds NaN or infinite values; learn them again"):
            read_weights(tmp_path / "w")

    @pytest.mark.parametrize("changes", [{}, {"contrasts": None}, {"limits": (0.0, 80.0), "quantile": None}])
    def test_a_basis_comes_back(self, tmp_path, changes):
        settings = {**SETTINGS, **changes}
        write_basis(tmp_path / "b", STATES, basis_description(settings))
        found = read_basis(tmp_path / "b")
        assert {name: found[name] for name in settings} == settings
        for name, state in STATES.items():
            assert found[name].keys() == state.keys()
            assert all(torch.equal(found[name][key], state[key]) for key in state)

    @pytest.mark.parametrize("key", ["format", "in_channels", "contrasts", "normalization"])
    def test_a_description_without_an_entry_names_it(self, tmp_path, key):
        description = basis_description(SETTINGS)
        del description[key]
        write_basis(tmp_path / "b", STATES, description)
        with pytest.raises(
            InputError, match=rf"b\.json: does not describe a learned basis \(no '{key}'\); save the basis again"
        ):
            read_basis(tmp_path / "b")

    @pytest.mark.parametrize("limits", [[], [1], "ab", {}, 3])
    def test_limits_that_are_not_two_numbers(self, tmp_path, limits):
        description = basis_description(SETTINGS)
        write_basis(
            tmp_path / "b", STATES, {**description, "normalization": {**description["normalization"], "limits": limits}}
        )
        with pytest.raises(InputError, match=r"b\.json: does not describe a learned basis"):
            read_basis(tmp_path / "b")

    def test_another_format_is_named_with_the_one_that_is_read(self, tmp_path):
        write_basis(tmp_path / "b", STATES, {**basis_description(SETTINGS), "format": "other 2"})
        with pytest.raises(InputError, match="format 'other 2', this version reads 'monai_locor learned bases 1'"):
            read_basis(tmp_path / "b")

    def test_the_description_is_plain_and_lists_the_channels(self):
        for channels in (1, 2):
            found = basis_description({**SETTINGS, "in_channels": channels})
            assert len(found["channels"]) == channels and json.loads(json.dumps(found)) == found


class TestReadErrors:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (MemoryError(), "more memory than there is.*crop it"),
            (
                PermissionError(13, "Permission denied", "a.nii"),
                r"\(Permission denied\); check the path and that you may read it",
            ),
            (FileNotFoundError(2, "No such file", "a.img"), r"\(No such file: a\.img\); check the path"),
            (EOFError("Compressed file ended"), "incomplete or damaged, copy or make it again"),
            (zlib.error("Error -3 while decompressing"), "incomplete or damaged"),
            (ValueError("not a gzip file"), r"name ends in \.gz but it is not compressed"),
            (
                RuntimeError("a\nCould not create IO object\nfor reading"),
                "neither nibabel nor ITK reads its format, convert it",
            ),
            (ValueError("Expected 10 bytes, got 3 bytes from object"), "incomplete or damaged"),
            (ValueError("data code 77 not recognized"), "neither nibabel nor ITK reads its format"),
            (ValueError("sizeof_hdr should be 348"), "its header is invalid, repair it or save it again"),
            (RuntimeError("something of ITK"), "its reader does not support it; convert it to NIfTI"),
            (KeyError("bug"), "KeyError: 'bug'.*report this message"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
    )
    def test_one_line_with_name_reason_and_remedy(self, error, words):
        found = read_error("fixed image a.nii", error)
        assert isinstance(found, InputError)
        assert re.search(rf"^fixed image a\.nii: cannot be read .*{words}", str(found)) and "\n" not in str(found)

    def test_the_last_line_of_a_long_message(self):
        assert one_line(ValueError("first\n\n  last  \n")) == "last"
        assert one_line(ValueError()) == "ValueError" and len(one_line(ValueError("x" * 999))) == 200


class TestContent:
    RNG = np.random.default_rng(0)

    def patches(self) -> np.ndarray:
        return np.kron(self.RNG.integers(0, 5, (4, 5, 3)), np.ones((4, 4, 4), int))[None]

    def test_labels_do_not_depend_on_storage_or_type(self):
        """Flips, permuted axes, a repeated channel and a wider type are the same label map."""
        given = self.patches()
        known = labels_in(given)
        assert known == np.unique(given).tolist()
        for other in (given[:, ::-1], given.transpose(0, 3, 1, 2), np.concatenate((given, given)), given.astype(np.float64)):
            assert labels_in(other) == known

    def test_other_numbers_for_the_labels_come_back(self):
        given = self.patches()
        numbers = np.array([0, 17, 1000, 40, 3])
        assert labels_in(numbers[given]) == sorted(numbers[np.unique(given)].tolist())

    def test_one_voxel_that_is_not_whole_makes_an_image(self):
        given = self.patches().astype(np.float32)
        given[0, 1, 2, 3] += 0.5
        assert labels_in(given) is None and not_whole(given).tolist() == [given[0, 1, 2, 3]]

    @pytest.mark.parametrize(("value", "error"), [(0, 4e-5), (3, 4e-5), (50, 4e-4), (1000, 9e-4), (1e8, 0.09)])
    def test_what_a_slope_in_the_header_leaves_is_whole(self, value, error):
        assert not len(not_whole(np.array([value + error, value - error])))
        assert len(not_whole(np.array([value + 2 * error + 1e-4, value - 2 * error - 1e-4]))) == 2

    @pytest.mark.parametrize("value", [0.5, -0.01, np.nan, np.inf, 1e5 + 0.3])
    def test_other_values_are_not(self, value):
        found = not_whole(np.array([1.0, value, 2.0]))
        np.testing.assert_array_equal(found, [value])

    @pytest.mark.parametrize("seed", range(3))
    def test_unit_vectors_stay_so_under_rotations_flips_and_zeros(self, seed):
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((3, 6, 5, 4))
        vectors /= np.linalg.norm(vectors, axis=0)
        vectors[:, :2] = 0
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        for given in (vectors, np.tensordot(turn, vectors, 1), vectors[:, ::-1], -vectors):
            assert vectors_in(given) == "unit vectors"
        assert vectors_in(2 * vectors) == vectors_in(np.abs(vectors)) == vectors_in(vectors[:2]) == ""
