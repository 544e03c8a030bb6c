# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures: colors become one intensity, sizes and positions are right, files come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image, TiffImagePlugin

from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io import PointList, pictures, read_image, read_points, write_image, write_points
from monai_locor.io.grids import read_grid
from monai_locor.io.image_files import read_stored
from monai_locor.io.pictures import background_of, block_means

RNG = np.random.default_rng(3)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    """Save ``(Y, X[, C])`` uint8."""
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def section(stain: np.ndarray, amount: np.ndarray, white: float = 240.0) -> np.ndarray:
    """A picture of an amount of a stain, ``(Y, X)``, by the law of Beer and Lambert."""
    return np.rint(white * 10 ** (-amount[..., None] * stain)).astype(np.uint8)


@pytest.fixture
def amount() -> np.ndarray:
    """An amount of stain that is zero at the border, ``(Y, X)``."""
    y, x = np.mgrid[:40, :48]
    return np.exp(-((x - 20) ** 2 + (y - 22) ** 2) / 60) * (0.6 + 0.4 * np.sin(x)) * (np.hypot(x - 20, y - 22) < 16)


class TestIntensity:
    @pytest.mark.parametrize("stain", [(0.3, 0.9, 0.4), (0.8, 0.6, 0.3), (0.5, 0.5, 0.5)])
    def test_is_the_amount_of_the_stain(self, tmp_path, amount, stain):
        path = save(tmp_path / "a.png", section(np.array(stain), amount))
        image = read_image(path)[0]
        assert image.shape == (1, 48, 40)  # x first
        expected = amount.T * np.linalg.norm(stain)
        np.testing.assert_allclose(image.numpy()[0], expected, atol=0.01)

    def test_a_gray_section_too(self, tmp_path, amount):
        path = save(tmp_path / "a.tif", section(np.ones(1), amount)[..., 0])
        np.testing.assert_allclose(read_image(path)[0].numpy()[0], amount.T, atol=0.01)

    def test_black_pixels_are_finite(self, tmp_path, amount):
        pixels = section(np.array([0.3, 0.9, 0.4]), amount)
        pixels[20:23, 20:23] = 0
        image, valid = read_image(save(tmp_path / "a.png", pixels))
        assert valid is None and float(image.max()) < 10

    def test_on_a_dark_background_is_the_luminance(self, tmp_path):
        pixels = np.zeros((12, 10, 3), np.uint8)
        pixels[3:8, 3:7] = RNG.integers(50, 255, (5, 4, 3))
        image = read_image(save(tmp_path / "a.png", pixels))[0]
        expected = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
        np.testing.assert_allclose(image.numpy()[0], expected.T, atol=1)

    def test_gray_on_a_dark_background_keeps_its_values(self, tmp_path):
        pixels = np.zeros((12, 10), np.uint8)
        pixels[3:8, 3:7] = RNG.integers(50, 255, (5, 4))
        np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", pixels))[0].numpy()[0], pixels.T)

    def test_a_channel_is_as_stored(self, tmp_path, amount):
        pixels = section(np.array([0.3, 0.9, 0.4]), amount)
        path = save(tmp_path / "a.png", pixels)
        np.testing.assert_array_equal(read_image(path, channel=1)[0].numpy()[0], pixels[..., 1].T)


class TestTransparency:
    def test_blends_over_white(self, tmp_path):
        pixels = RNG.integers(0, 255, (6, 5, 4)).astype(np.uint8)
        pixels[0, :, 3], pixels[1, :, 3] = 0, 255
        stored = read_stored(save(tmp_path / "a.png", pixels, "RGBA"), "a")
        white = Image.new("RGBA", (5, 6), "white")
        expected = np.asarray(Image.alpha_composite(white, Image.open(tmp_path / "a.png")))[..., :3]
        np.testing.assert_allclose(stored.voxels, expected.transpose(1, 0, 2).astype(int), atol=1)
        assert (stored.voxels[:, 0] == 255).all() and stored.channels == ("red", "green", "blue")

    def test_opaque_pixels_keep_their_values(self, tmp_path):
        pixels = RNG.integers(0, 255, (6, 5, 4)).astype(np.uint8)
        pixels[..., 3] = 255
        stored = read_stored(save(tmp_path / "a.png", pixels, "RGBA"), "a")
        np.testing.assert_array_equal(stored.voxels, pixels[..., :3].transpose(1, 0, 2))


class TestSize:
    @pytest.mark.parametrize(("suffix", "dpi"), [(".jpg", 72), (".tif", 300), (".png", 96), (".bmp", 96)])
    def test_resolutions_of_screens_and_printers_are_not_physical(self, tmp_path, suffix, dpi):
        grid = read_grid(save(tmp_path / f"a{suffix}", np.zeros((6, 5), np.uint8), dpi=(dpi, dpi)))
        np.testing.assert_array_equal(grid.affine, np.diag([-1.0, -1.0, 1.0]))

    def test_of_a_microscope_is_physical(self, tmp_path):
        pixels = RNG.integers(0, 200, (6, 5)).astype(np.uint8)
        path = save(tmp_path / "a.tif", pixels, dpi=(25400, 12700))  # 1 and 2 micrometers
        np.testing.assert_allclose(read_grid(path).affine, np.diag([-1e-3, -2e-3, 1.0]), rtol=1e-6)
        image = read_image(path)[0]
        assert Grid.of(image) is not None and np.allclose(Grid.of(image).affine, read_grid(path).affine)

    @pytest.mark.parametrize("block", [2, 3, 5])
    def test_blocks_are_averaged(self, block, monkeypatch):
        monkeypatch.setattr(pictures, "SLAB_PIXELS", 40)
        voxels = RNG.integers(0, 255, (13, 11, 3)).astype(np.uint8)
        rows = [[voxels[x : x + block, y : y + block].mean((0, 1)) for y in range(0, 11, block)] for x in range(0, 13, block)]
        np.testing.assert_allclose(block_means(voxels, block), rows, rtol=1e-6)

    def test_large_pictures_are_reduced_in_place(self, tmp_path):
        """A linear ramp has the same value at the same place in every size."""
        ramp = np.add.outer(np.arange(36), 2 * np.arange(48)).astype(np.uint8)
        ramp[0, 0] = 0
        path = save(tmp_path / "a.png", ramp)
        for most in (36 * 48, 500, 120, 20):
            image = read_image(path, max_pixels=most)[0]
            assert image[0].numel() <= most
            x, y = np.moveaxis(Grid.of(image).points(), -1, 0) * -1
            half = Grid.of(image).spacing / 2
            inside = (x + half[0] <= 47.5) & (y + half[1] <= 35.5)  # not the blocks with fewer pixels
            np.testing.assert_allclose(image.numpy()[0][inside], (y + 2 * x)[inside], atol=1e-4)

    def test_selected_channels_are_reduced(self, tmp_path):
        path = save(tmp_path / "a.png", RNG.integers(0, 255, (20, 20, 3)).astype(np.uint8))
        assert read_image(path, channel=2, max_pixels=100)[0].shape == (1, 10, 10)

    def test_masks_and_stacks_are_not(self, tmp_path):
        stack = RNG.integers(0, 255, (3, 20, 20)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(stack), str(tmp_path / "a.tif"))
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", max_pixels=9)[0].numpy()[0], stack.T)


def test_the_full_size_of_a_pyramid_is_read(tmp_path):
    pixels = RNG.integers(0, 255, (16, 12, 3)).astype(np.uint8)
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "a.tif", True) as pages:
        for level in range(3):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            if level:
                tags[254] = 1  # a reduced image
            Image.fromarray(pixels[:: 2**level, :: 2**level]).save(pages, format="TIFF", tiffinfo=tags)
            pages.newFrame()
    assert read_grid(tmp_path / "a.tif").shape == (12, 16)
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif", "a").voxels, pixels.transpose(1, 0, 2))


class TestWriting:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".tiff"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_comes_back(self, tmp_path, suffix, channels):
        values = torch.from_numpy(RNG.integers(0, 255, (channels, 7, 5)).astype(np.uint8))
        write_image(tmp_path / f"a{suffix}", values, Grid((7, 5), np.diag([-1.0, -1, 1])))
        stored = read_stored(tmp_path / f"a{suffix}", "a")
        found = np.moveaxis(stored.voxels, -1, 0)  # a gray BMP has a palette and comes back in three equal colors
        np.testing.assert_array_equal(found, np.broadcast_to(values.numpy(), found.shape))
        again = np.asarray(Image.open(tmp_path / f"a{suffix}"))  # another library
        np.testing.assert_array_equal(np.atleast_3d(again).transpose(2, 1, 0), values.numpy())

    @pytest.mark.parametrize(("suffix", "channels"), [(".png", 1), (".png", 3), (".tif", 1), (".tif", 3)])
    def test_sixteen_bits(self, tmp_path, suffix, channels):
        values = torch.from_numpy(RNG.integers(0, 2**16, (channels, 7, 5)).astype(np.uint16))
        write_image(tmp_path / f"a{suffix}", values, Grid((7, 5), np.diag([-1.0, -1, 1])))
        stored = read_stored(tmp_path / f"a{suffix}", "a")
        np.testing.assert_array_equal(np.moveaxis(stored.voxels, -1, 0), values.numpy())

    def test_pixel_size_in_tiff(self, tmp_path):
        grid = Grid((7, 5), np.diag([-5e-4, -5e-4, 1]))
        write_image(tmp_path / "a.tif", torch.zeros(1, 7, 5, dtype=torch.uint8), grid)
        np.testing.assert_allclose(read_grid(tmp_path / "a.tif").affine, grid.affine, rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "values", "affine", "message"),
        [
            ("a.jpg", torch.zeros(1, 7, 5, dtype=torch.int16), np.diag([-1.0, -1, 1]), "values of type int16"),
            ("a.png", torch.zeros(1, 7, 5), np.diag([-1.0, -1, 1]), "values of type float32"),
            ("a.png", torch.zeros(2, 7, 5, dtype=torch.uint8), np.diag([-1.0, -1, 1]), "2 channels"),
            ("a.png", torch.zeros(1, 7, 5, dtype=torch.uint8), np.diag([1.0, -1, 1]), "position"),
            ("a.png", torch.zeros(1, 7, 5, dtype=torch.uint8), np.array([[-1.0, 0, 9], [0, -1, 0], [0, 0, 1]]), "position"),
            ("a.tif", torch.zeros(1, 7, 5, 2, dtype=torch.uint8), np.eye(4), "3 axes"),
        ],
    )
    def test_refusals(self, tmp_path, name, values, affine, message):
        with pytest.raises(InputError, match=rf"{name.replace('.', '[.]')}: .*{message}.*;"):
            write_image(tmp_path / name, values, Grid(tuple(values.shape[1:]), affine))
        assert not list(tmp_path.iterdir())


def test_background_is_the_median_of_the_border():
    voxels = np.full((9, 8, 2), [200, 90])
    voxels[2:7, 2:6] = 0
    voxels[0, :3] = 7
    np.testing.assert_array_equal(background_of(voxels), [200, 90])


class TestPixels:
    GRID = Grid((50, 40), np.array([[-0.5, 0, 3], [0, -0.25, 1], [0, 0, 1]]))

    def test_table_with_an_index(self, tmp_path):
        (tmp_path / "a.csv").write_text(" ,X,Y\n1,0,0\n7,10,20\n")
        found = read_points(tmp_path / "a.csv", pixels_of=self.GRID)
        assert found.labels == ("1", "7")
        np.testing.assert_allclose(found.points.numpy(), [[3, 1], [-2, -4]])

    def test_come_back(self, tmp_path):
        points = PointList(torch.from_numpy(RNG.normal(size=(4, 2))), ("a", "b", "c", "d"))
        write_points(tmp_path / "a.csv", points, pixels_of=self.GRID)
        found = read_points(tmp_path / "a.csv", pixels_of=self.GRID)
        assert found.labels == points.labels
        np.testing.assert_allclose(found.points.numpy(), points.points.numpy(), atol=1e-5)

    def test_of_another_dimension_are_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n")
        with pytest.raises(InputError, match=r"a[.]csv: has 3 coordinates, but its image 2 axes; give"):
            read_points(tmp_path / "a.csv", pixels_of=self.GRID)
