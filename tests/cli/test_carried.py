# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What an image means beside its voxels is carried with it: labels, time, tensors; and how it is interpolated."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from .files import AFFINE, SHAPE, load, save

# LPS, from fixed to moving points
QUARTERS = {
    "x": "1 0 0 0 0 -1 0 1 0",
    "y": "0 0 1 0 1 0 -1 0 0",
    "z": "0 -1 0 1 0 0 0 0 1",
}
CUBE = np.diag([2.0, 2, 2, 1])
CUBE[:3, 3] = -9


@pytest.fixture
def still(folder):
    """Names of files and the identity."""
    _transform(folder / "id.tfm", "1 0 0 0 1 0 0 0 1")
    return folder


def _transform(path, matrix: str = "1 0 0 0 1 0 0 0 1", shift: str = "0 0 0"):
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    path.write_text(f"{head}Parameters: {matrix} {shift}\nFixedParameters: 0 0 0\n")
    return path


def applied(run, folder, name, *words):
    out = folder / "out.nii.gz"
    answer = run("apply", folder / name, "-t", folder / "id.tfm", "-r", folder / "fixed.nii.gz", "-o", out, "--force", *words)
    assert answer.code == 0, answer.err
    found = nib.load(out)
    return nib.Nifti1Image(np.asarray(found.dataobj), None, found.header), answer  # the file may be overwritten


class TestSeries:
    @pytest.mark.parametrize("unit", ["sec", "msec", "usec", "unknown", "hz"])
    def test_time_step_unit_and_offset_are_kept(self, run, still, unit):
        data = np.random.default_rng(0).integers(0, 1000, (*SHAPE, 5)).astype(np.int16)
        image = nib.Nifti1Image(data, AFFINE)
        image.header.set_zooms((2, 2, 3, 1.5))
        image.header.set_xyzt_units("mm", unit)
        image.header["toffset"] = 4
        nib.save(image, still / "bold.nii.gz")
        out, _ = applied(run, still, "bold.nii.gz", "--channel", "all")
        assert out.shape == data.shape and out.header.get_zooms() == (2, 2, 3, 1.5)
        assert out.header.get_xyzt_units() == ("mm", unit) and float(out.header["toffset"]) == 4
        np.testing.assert_allclose(np.asarray(out.dataobj), data, atol=1e-2)
        one, _ = applied(run, still, "bold.nii.gz", "--channel", "2")
        assert one.shape == SHAPE and one.header.get_xyzt_units() == ("mm", "unknown")

    def test_intents_that_still_hold_are_kept(self, run, still):
        for intent, words, kept in (("z score", (), True), ("label", ("--labels",), True), ("label", ("-n", "linear"), False)):
            image = nib.load(still / "moving_labels.nii.gz")
            image.header.set_intent(intent, name="mine")
            nib.save(image, still / "said.nii.gz")
            out, _ = applied(run, still, "said.nii.gz", *words)
            assert (out.header.get_intent() == (intent, (), "mine")) is kept


class TestTensors:
    def image(self, path, diagonal=(3, 1, 1), affine=CUBE, intent="symmetric matrix"):
        lower = np.array([diagonal[0], 0, diagonal[1], 0, 0, diagonal[2]], np.float32)
        image = nib.Nifti1Image(np.broadcast_to(lower, (10, 10, 10, 1, 6)).copy(), affine)
        if intent:
            image.header.set_intent(intent, (3,) if intent == "symmetric matrix" else ())
        nib.save(image, path)

    def carried(self, run, folder, name, *words, fixed=CUBE):
        save(folder / "grid.nii.gz", np.zeros((10, 10, 10), np.float32), fixed)
        command = ["apply", folder / name, "-t", folder / "turn.tfm", "-r", folder / "grid.nii.gz", "--force", *words]
        answer = run(*command, "-o", folder / "out.nii.gz", "--channel", "all")
        return answer, nib.load(folder / "out.nii.gz") if answer.code == 0 else None

    @pytest.mark.parametrize(("axis", "expected"), [("x", (1, 2, 3)), ("y", (3, 2, 1)), ("z", (2, 1, 3))])
    def test_a_quarter_turn_about_each_axis(self, run, folder, axis, expected):
        """Seen from the fixed image, what ran along one axis runs along another."""
        given = {"x": (1, 3, 2), "y": (1, 2, 3), "z": (1, 2, 3)}[axis]
        self.image(folder / "dti.nii.gz", given)
        _transform(folder / "turn.tfm", QUARTERS[axis])
        answer, out = self.carried(run, folder, "dti.nii.gz")
        assert out.shape == (10, 10, 10, 1, 6) and out.header.get_intent()[:2] == ("symmetric matrix", (3.0,))
        np.testing.assert_allclose(np.asarray(out.dataobj)[5, 5, 5, 0, [0, 2, 5]], expected, atol=1e-5)
        assert answer.err == ""

    def test_through_a_deformation_and_zero_outside(self, run, folder):
        """A field that turns by 30 degrees about z, LPS; half of it lies outside the tensors."""
        turn = np.deg2rad(30)
        points = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), -1) * 2.0 - 9
        flips = np.array([-1, -1, 1])
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        field = ((points @ rotation.T - points) * flips + (0, 0, -9)).astype(np.float32)[:, :, :, None]
        image = nib.Nifti1Image(field, CUBE)
        image.header.set_intent("vector")
        nib.save(image, folder / "turn.nii.gz")
        self.image(folder / "dti.nii.gz")
        (folder / "turn.tfm").unlink(missing_ok=True)
        save(folder / "grid.nii.gz", np.zeros((10, 10, 10), np.float32), CUBE)
        words = ["-t", folder / "turn.nii.gz", "-r", folder / "grid.nii.gz", "-o", folder / "out.nii.gz", "--channel", "all"]
        assert run("apply", folder / "dti.nii.gz", *words).code == 0
        out = load(folder / "out.nii.gz")[..., 0, :]
        xx, xy, yy = out[4, 5, 6, :3]  # e = R^T x
        np.testing.assert_allclose((xx, xy, yy), (1 + 2 * 0.75, -2 * np.sqrt(3) / 4, 1 + 2 * 0.25), atol=1e-4)
        assert not out[:, :, :2].any()

    def test_axes_of_the_voxels_or_of_the_world(self, run, folder):
        """A moving image whose first axis runs along world y: xx of its voxels is yy of the world."""
        moving = CUBE[:, [1, 0, 2, 3]]
        self.image(folder / "dti.nii.gz", affine=moving)
        _transform(folder / "turn.tfm", "1 0 0 0 1 0 0 0 1")
        for words, expected in (((), (1, 3, 1)), (("--tensor-axes", "world"), (3, 1, 1))):
            _, out = self.carried(run, folder, "dti.nii.gz", *words)
            np.testing.assert_allclose(np.asarray(out.dataobj)[5, 5, 5, 0, [0, 2, 5]], expected, atol=1e-5)

    @pytest.mark.parametrize("intent", ["vector", "displacement vector", "general matrix", "quaternion"])
    def test_what_is_not_turned_is_refused_and_one_component_is_told(self, run, folder, intent, caplog):
        self.image(folder / "dti.nii.gz", intent=intent)
        _transform(folder / "turn.tfm", QUARTERS["z"])
        answer, _ = self.carried(run, folder, "dti.nii.gz")
        assert answer.code == 2 and f"(intent {intent})" in answer.err and answer.err.count("\n") == 1
        assert not (folder / "out.nii.gz").exists()
        words = ["-t", folder / "turn.tfm", "-r", folder / "grid.nii.gz", "-o", folder / "o.nii.gz", "--channel", "0"]
        answer = run("apply", folder / "dti.nii.gz", *words)
        assert answer.code == 0 and f"is one component of several (intent {intent}) and is not rotated" in answer.err

    def test_six_components_without_a_word_are_told(self, run, folder):
        roots = np.random.default_rng(0).standard_normal((10, 10, 10, 3, 3))
        full = roots @ roots.swapaxes(-1, -2)
        parts = [full[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
        save(folder / "fsl.nii.gz", np.stack(parts, -1).astype(np.float32), CUBE)
        _transform(folder / "turn.tfm", QUARTERS["z"])
        answer, _ = self.carried(run, folder, "fsl.nii.gz")
        assert answer.code == 0 and "looks like diffusion tensors in the order of FSL and is not rotated" in answer.err


class TestWhatLooksLikeLabels:
    @pytest.mark.parametrize("kind", ["labels", "mask"])
    def test_it_is_read_at_the_nearest_voxel_and_told(self, run, still, kind):
        data = load(still / "moving_labels.nii.gz")
        save(still / "a.nii.gz", data if kind == "labels" else (data > 0).astype(np.uint8))
        _transform(still / "id.tfm", "1 0 0 0 1 0 0.1 0 1")
        found, answer = applied(run, still, "a.nii.gz")
        assert answer.err.count("\n") == 1 and "a.nii.gz: looks like a " in answer.err
        assert "--labels" in answer.err and "-n linear" in answer.err and "labels, 14x12x10" in answer.out
        told, quiet = applied(run, still, "a.nii.gz", "--labels")
        assert quiet.err == "" and told.get_data_dtype() == found.get_data_dtype()
        np.testing.assert_array_equal(np.asarray(told.dataobj), np.asarray(found.dataobj))
        linear, forced = applied(run, still, "a.nii.gz", "-n", "linear")
        assert forced.err == "" and len(np.unique(np.asarray(linear.dataobj))) > len(np.unique(data))
        info = run("info", still / "a.nii.gz").out
        assert ("mask" in info) == (kind == "mask") and "label" in info

    def test_register_does_the_same(self, run, still, monkeypatch, caplog):
        from monai_locor.cli.carried import load_carried

        with caplog.at_level(logging.WARNING, "monai_locor"):
            assert load_carried(still / "moving_labels.nii.gz", "image", "moving").kind == "labels"
            assert load_carried(still / "moving_labels.nii.gz", "image", "moving", mode="bilinear").kind == "image"
            assert load_carried(still / "moving.nii.gz", "image", "moving").kind == "image"
        (line,) = [r.getMessage() for r in caplog.records]
        assert "moving_labels.nii.gz" in line

    @pytest.mark.parametrize(("largest", "reads"), [(14175, 1), (2**24 + 1, 2)])
    def test_it_is_read_again_only_for_large_values(self, still, monkeypatch, largest, reads):
        from monai_locor.cli.carried import load_carried
        from monai_locor.io import image_source

        values = np.asarray(load(still / "moving_labels.nii.gz")).astype(np.int32)
        values[values == values.max()] = largest
        save(still / "a.nii.gz", values)
        read, calls = image_source.read_stored, []
        monkeypatch.setattr(image_source, "read_stored", lambda *given: calls.append(given) or read(*given))
        found = load_carried(still / "a.nii.gz", "image", "moving")
        assert len(calls) == reads and found.kind == "labels" and found.mode == "nearest"
        expected = load_carried(still / "a.nii.gz", "labels", "moving")
        np.testing.assert_array_equal(found.content.numpy()[0], values)
        assert found.content.dtype == expected.content.dtype and found.content.meta["stored_dtype"] == "int32"

    def test_channels_of_labels(self, run, still):
        data = load(still / "moving_labels.nii.gz")
        save(still / "two.nii.gz", np.stack([data, 2 * data], -1))
        out, _ = applied(run, still, "two.nii.gz", "--channel", "all")
        np.testing.assert_array_equal(np.asarray(out.dataobj), np.stack([data, 2 * data], -1))
        one, _ = applied(run, still, "two.nii.gz", "--channel", "1", "--labels")
        np.testing.assert_array_equal(np.asarray(one.dataobj), 2 * data)


class TestInterpolation:
    @pytest.mark.parametrize("name", ["linear", "nearest", "bspline", "windowed-sinc", "lanczos"])
    def test_of_images(self, run, still, name):
        """A wave between its voxels: the more voxels take part, the closer."""
        x, y, _ = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
        wave = np.sin(0.9 * x) * np.cos(0.8 * y) + 2
        save(still / "wave.nii.gz", wave.astype(np.float32))
        _transform(still / "id.tfm", shift="-0.8 0 0")  # LPS, mm
        out, answer = applied(run, still, "wave.nii.gz", "-n", name)
        truth = np.sin(0.9 * (x + 0.4)) * np.cos(0.8 * y) + 2
        error = np.abs(np.asarray(out.dataobj) - truth)[3:-3, 3:-3, 3:-3].max()
        assert error < {"linear": 0.15, "nearest": 0.5, "bspline": 0.01}.get(name, 0.03)
        assert answer.err == ""

    def test_of_labels(self, run, refused, still):
        _transform(still / "id.tfm", shift="0.8 0.8 1.2")
        labels = load(still / "moving_labels.nii.gz")
        smooth, _ = applied(run, still, "moving_labels.nii.gz", "-n", "smooth")
        nearest, _ = applied(run, still, "moving_labels.nii.gz", "--labels")
        assert set(np.unique(smooth.dataobj)) == set(np.unique(labels)) and smooth.get_data_dtype() == np.int16
        assert (np.asarray(smooth.dataobj) != np.asarray(nearest.dataobj)).any()
        words = ["apply", still / "moving_labels.nii.gz", "-t", still / "id.tfm", "-o", still / "o.nii.gz", "--labels", "-n"]
        assert "-n bspline: would interpolate between label values" in refused(*words, "bspline")
