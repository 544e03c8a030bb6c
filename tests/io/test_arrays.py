# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images in memory: every kind of array of every number of axes is read as its user means it, or refused with the remedy."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import EnsureChannelFirst, LoadImage, SpatialCrop

from monai_locor import InputError
from monai_locor.geometry.planes import full_affine
from monai_locor.io import read_image, read_mask
from monai_locor.io.arrays import images_of_channels
from monai_locor.io.grids import read_grid
from monai_locor.io.images import read_labels

from ..phantoms import turned
from .library_objects import IMAGES, itk
from .transform_cases import GRIDS

AFFINE = turned(0.4, (1.5, -2.0, 2.5), (5, 6, 7)).affine
FLAT = turned(0.4, (1.5, -2.0), (5, 6)).affine
RNG = np.random.default_rng(0)
KINDS = {
    "array": np.asarray,
    "tensor": torch.from_numpy,
    "list": np.ndarray.tolist,
    "float16": lambda a: a.astype(np.float16),
    "int16": lambda a: a.astype(np.int16),
    "big-endian": lambda a: a.astype(">f4"),
    "read-only": lambda a: np.broadcast_to(a, a.shape),
}


def numbers(*shape: int) -> np.ndarray:
    return RNG.integers(0, 100, shape).astype(np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "affine", "spatial"),
    [
        ((5, 6), None, (5, 6)),
        ((1, 5, 6), None, (5, 6)),
        ((1, 5, 6, 7), None, (5, 6, 7)),
        ((5, 6), FLAT, (5, 6)),
        ((5, 6), full_affine(FLAT), (5, 6)),
        ((1, 5, 6), FLAT, (5, 6)),
        ((5, 6, 7), AFFINE, (5, 6, 7)),
        ((1, 5, 6, 7), AFFINE, (5, 6, 7)),
        ((5, 6, 1), full_affine(FLAT), (5, 6)),
    ],
)
def test_shapes_that_can_be_read_in_one_way(kind, shape, affine, spatial):
    array = numbers(*shape)
    given = KINDS[kind](array) if affine is None else (KINDS[kind](array), affine)
    for read in (read_image, read_mask, read_labels) if kind not in ("tensor", "array") else (read_image,):
        image = read(given) if read is read_image else read(given, "fixed")
        image = image[0] if read is read_image else image
        assert tuple(image.shape) == (1, *spatial)
        np.testing.assert_allclose(image.affine.numpy(), np.eye(4) if affine is None else full_affine(affine))
        if read is not read_mask:
            np.testing.assert_array_equal(np.asarray(image).reshape(array.shape), array)
    assert read_grid(given).shape == spatial


@pytest.mark.parametrize("kind", [list, np.asarray, torch.from_numpy])
def test_an_affine_of_any_kind(kind):
    array = numbers(5, 6, 7)
    affine = AFFINE.tolist() if kind is list else kind(AFFINE)
    np.testing.assert_allclose(read_image((array, affine))[0].affine.numpy(), AFFINE)


class Labeled:
    """What TorchIO's images and xarray's arrays have in common: they are arrays, and say where they lie."""

    def __init__(self, values: np.ndarray, **place) -> None:
        self.values = values
        self.__dict__.update(place)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.values.astype(dtype) if dtype else self.values


def test_what_is_an_array_with_an_affine():
    array = numbers(1, 5, 6, 7)
    found = read_image(Labeled(array, affine=AFFINE))[0]
    np.testing.assert_array_equal(found.numpy(), array)
    np.testing.assert_allclose(found.affine.numpy(), AFFINE)
    view = itk.array_view_from_image(itk.image_from_array(np.ascontiguousarray(array[0])))
    np.testing.assert_array_equal(read_image((view, AFFINE))[0].numpy(), array)
    proxy = nib.Nifti1Image(array[0], AFFINE).dataobj
    np.testing.assert_array_equal(read_image((proxy, AFFINE))[0].numpy(), array)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Labeled(numbers(5, 6), coords={"x": 1}), "coordinates are not read; give"),
        (numbers(5, 6, 7), r"3-D image without channel axis or 5 channels of a 2-D.*image\[None\] or \(image, affine\)"),
        (numbers(5, 6, 7).tolist(), "3-D image without channel axis or 5 channels"),
        (MetaTensor(torch.rand(5, 6, 7), affine=AFFINE), "3-D image without channel axis or 5 channels"),
        ((numbers(1, 6, 7), AFFINE), r"one slice of a 3-D image or a 2-D image.*image\[None\] .* image\[0\]"),
        ((numbers(3, 6, 7), FLAT), "3 channels or frames"),
        (numbers(3, 5, 6, 7), "3 channels or frames"),
        ((numbers(5, 6, 7), FLAT[:, :2]), "cannot be read as an array.*affine 4x4"),
        ((numbers(5, 6, 7), np.diag([1.0, 1, 1, 2])), "last row"),
        ((numbers(5, 6, 7), np.diag([1.0, np.nan, 1, 1])), "finite"),
        ((numbers(5, 6, 7), np.diag([1.0, 0, 1, 1])), "singular|not invertible|determinant"),
        ([[1.0, 2.0], [3.0]], "cannot be read as an array"),
        ([["a", "b"], ["c", "d"]], "values of type"),
        (numbers(4), r"has shape \(4,\)"),
        (3.0, "is a float"),
        (None, "is a NoneType"),
        (np.array(["a", "b"]), "values of type"),
        (numbers(1, 1, 5, 6, 7), "no batch axis"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(given, told):
    with pytest.raises(InputError, match=told) as caught:
        read_image(given, "moving")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("moving image") and ";" in message


def test_one_channel_may_be_named():
    array = numbers(3, 5, 6)
    np.testing.assert_array_equal(read_image(array, "fixed", 2)[0].numpy(), array[2:].astype(np.float32))


@pytest.mark.parametrize("first", [False, True])
def test_images_as_monai_loads_them(tmp_path, first):
    nib.save(nib.Nifti1Image(numbers(5, 6, 7).astype(np.float32), AFFINE), tmp_path / "a.nii")
    loaded = LoadImage()(tmp_path / "a.nii")
    given = EnsureChannelFirst()(loaded) if first else loaded
    ours, theirs = read_image(given)[0], read_image(tmp_path / "a.nii")[0]
    assert torch.equal(ours.as_tensor(), theirs.as_tensor()) and torch.equal(ours.affine, theirs.affine)


def test_a_loaded_image_that_was_cut_is_no_longer_clear(tmp_path):
    nib.save(nib.Nifti1Image(numbers(5, 6, 7).astype(np.float32), AFFINE), tmp_path / "a.nii")
    loaded = EnsureChannelFirst()(LoadImage()(tmp_path / "a.nii"))
    two = SpatialCrop(roi_start=(1, 1, 1), roi_end=(5, 5, 2))(torch.cat((loaded, loaded)))[..., 0]
    with pytest.raises(InputError, match="2 channels of a 2-D image"):
        read_image(two)


@pytest.mark.parametrize("place", GRIDS)
@pytest.mark.parametrize("library", IMAGES)
def test_images_of_libraries_are_read_as_files_are(library, place):
    grid = GRIDS[place][0]
    array = numbers(*grid.shape).astype(np.float32)
    image, valid = read_image(IMAGES[library](array, grid), "moving")
    np.testing.assert_array_equal(image.numpy()[0], array)
    np.testing.assert_allclose(image.affine.numpy(), full_affine(grid.affine), atol=1e-5)
    assert valid is None and image.meta["stored_dtype"] == "float32"
    assert read_labels(IMAGES[library](array, grid)).dtype == torch.int64
    mask = read_mask(IMAGES[library]((array > 50).astype(np.uint8), grid))
    np.testing.assert_array_equal(mask.numpy()[0], array > 50)


@pytest.mark.parametrize("library", IMAGES)
def test_one_of_several_components_is_named(library):
    grid = GRIDS["mixed"][0]
    array = numbers(*grid.shape, 3).astype(np.float32)
    image = IMAGES[library](array, grid)
    np.testing.assert_array_equal(read_image(image, "fixed", 1)[0].numpy()[0], array[..., 1])
    with pytest.raises(InputError, match=r"moving image \(in memory\): has 3 channels .* channel=0 to 2"):
        read_image(image, "moving")


def test_a_file_that_an_image_comes_from_is_named(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7, 2), np.float32), AFFINE), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"fixed image .*a\.nii: has 2 channels"):
        read_image(nib.load(tmp_path / "a.nii"))


def test_lists_of_images_are_channels():
    array = numbers(1, 5, 6)
    image = IMAGES["SimpleITK"](array[0], turned(0.4, (1.5, -2.0), (5, 6)))
    for several in ([array, array], (array, array), ["a.nii", "b.nii"], [image, "a.nii"], [(array, FLAT)], ["a.nii"]):
        assert images_of_channels(several) == list(several)
    for single in (
        array,
        array.tolist(),
        (array, FLAT),
        (array.tolist(), FLAT.tolist()),
        "a.nii",
        image,
        [[1, 2], [3, 4]],
        [1.0],
    ):
        assert images_of_channels(single) is None
