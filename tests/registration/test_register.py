# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register()`` and what it gives back: every way in, every refusal before the work starts, and files that ITK reads."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, RegistrationConfig, RegistrationResult, register, register_batch
from monai_locor.cohort.api import requested
from monai_locor.geometry import Grid, apply_affine, inside, mapped_points, to_voxels
from monai_locor.io import read_affine, read_displacement_field, read_image, write_affine, write_displacement_field
from monai_locor.registration import PRESETS, RegistrationEngine, Stage
from monai_locor.registration.run import Run

from ..phantoms import grid_of, image

TINY = RegistrationConfig(stages=(Stage(2, 3), Stage(2, 3, spacing=8, learning_rate=0.1)), multistart="never")
NOTHING = RegistrationConfig(stages=(), multistart="never")
FILES = {"warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz", "affine.tfm", "error.nii.gz", "run.json"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


FIXED = {3: grid_of((20, 18, 12), (-1.0, 1.1, 2.0), turn=0.3), 2: grid_of((30, 28), (-1.0, 0.8), turn=0.3)}
MOVING = {3: grid_of((24, 22, 30), (-1.2, 1.2, 1.0), turn=-0.2), 2: grid_of((34, 36), (-1.1, 0.9), turn=-0.2)}


def waves(grid: Grid, function=np.sin) -> MetaTensor:
    world = grid.points()
    values = function(world @ np.array([0.3, 0.25, 0.2])[: grid.dims]) + np.cos(world @ np.array([0.1, -0.4, 0.3])[: grid.dims])
    return image(values, grid)


def save(path: Path, source: MetaTensor) -> Path:
    nib.save(nib.Nifti1Image(source.as_tensor()[0].numpy(), source.affine.numpy()), path)
    return path


def run(fixed, moving, preset=TINY, **options) -> RegistrationResult:
    return register(fixed, moving, preset=preset, progress=False, **{"device": "cpu", **options})


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor]:
    return waves(FIXED[3], np.cos), waves(MOVING[3])


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_seeds_of_numpy(images, kind):
    (batched,) = register_batch(*([each] for each in images), preset=NOTHING, seed=kind(3), device="cpu", progress=False)
    for found in (run(*images, NOTHING, seed=kind(3)), batched):
        assert type(found.seed) is int and found.seed == 3
    assert requested(NOTHING, None, kind(3), None) == requested(NOTHING, None, 3, None)


def test_seeds_that_are_none(images):
    for call in (lambda: run(*images, NOTHING, seed=3.5), lambda: requested(NOTHING, None, "3", None)):
        with pytest.raises(InputError, match="seed must be a whole number, got"):
            call()


@pytest.fixture(scope="module", params=[3, 2])
def result(request) -> RegistrationResult:
    """Oblique, flipped grids of different size, moved enough that nothing is symmetric by chance."""
    start = np.eye(request.param + 1)
    start[0, 1], start[:-1, -1] = 0.1, [1.5, -2.0, 1.0][: request.param]
    return run(waves(FIXED[request.param], np.cos), waves(MOVING[request.param]), initial=start)


class TestSources:
    @pytest.mark.slow
    def test_files_and_tensors_give_the_same(self, images, tmp_path):
        paths = [save(tmp_path / f"{name}.nii.gz", i) for name, i in zip(("fixed", "moving"), images)]
        from_files, from_memory = run(*paths), run(*images)
        torch.testing.assert_close(from_files.forward_mm, from_memory.forward_mm, atol=0.05, rtol=0)
        assert from_files.inputs == {"fixed": str(paths[0]), "moving": str(paths[1])} and from_memory.inputs == {}
        assert run(str(paths[0]), images[1], NOTHING).inputs == {"fixed": str(paths[0])}

    def test_plain_tensors_and_arrays(self):
        values = waves(grid_of((12, 13, 14), (-1.0, 1.0, 1.0))).as_tensor()
        for source in (values, values.numpy()):
            found = run(source, source, NOTHING)
            np.testing.assert_array_equal(found.fixed_grid.affine, np.eye(4))

    @pytest.mark.slow
    def test_the_input_is_left_alone(self, images):
        copies = [i.clone() for i in images]
        run(*images)
        assert all(torch.equal(a, b) for a, b in zip(images, copies))

    @pytest.mark.parametrize("preset", [*PRESETS, {"preset": "default", "num_basis": 3}, TINY])
    @pytest.mark.usefixtures("no_rivals")
    def test_presets(self, preset, images, monkeypatch):
        monkeypatch.setattr(Run, "complete", lambda self, *_: self.engine)
        assert run(*images, preset).config == RegistrationConfig.of(preset)

    def test_masks_on_another_grid_are_resampled_with_a_warning(self, images, caplog):
        mask = image(np.ones(MOVING[3].shape), MOVING[3])
        with caplog.at_level(logging.WARNING):
            run(*images, NOTHING, fixed_mask=mask)
        assert "fixed mask: lies on another grid" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run(*images, NOTHING, moving_mask=mask)
        assert "another grid" not in caplog.text

    def test_initial_from_files(self, images, tmp_path):
        matrix = np.eye(4)
        matrix[:3, 3] = [1, 2, -1]
        write_affine(tmp_path / "start.tfm", matrix)
        np.testing.assert_allclose(run(*images, NOTHING, initial=tmp_path / "start.tfm").affine, matrix, atol=1e-9)
        field = torch.ones(3, *FIXED[3].shape)
        write_displacement_field(tmp_path / "start.nii.gz", field, FIXED[3])
        found = run(*images, NOTHING, initial=str(tmp_path / "start.nii.gz"))
        torch.testing.assert_close(found.forward_mm, field, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("how", ["centers", "moments"])
    def test_images_far_apart_start_from_their_middles(self, images, how):
        far = image(images[1].as_tensor()[0], Grid(MOVING[3].shape, shifted(MOVING[3], 500)))
        found = run(images[0], far, RegistrationConfig(stages=(), initialization=how, multistart="never"))
        np.testing.assert_allclose(found.affine[0, 3], 500, atol=8)

    def test_auto_falls_back_to_the_centers_and_says_so(self, images, caplog):
        far = image(images[1].as_tensor()[0], Grid(MOVING[3].shape, shifted(MOVING[3], 500)))
        with caplog.at_level(logging.INFO, logger="monai_locor"):
            found = run(images[0], far, NOTHING)
        assert "centers" in caplog.text
        np.testing.assert_allclose(found.affine[:3, 3], [500, 0, 0], atol=1e-6)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="monai_locor"):
            near = run(*images, NOTHING)
        assert "world" in caplog.text
        np.testing.assert_allclose(near.affine, np.eye(4), atol=1e-9)


def shifted(grid: Grid, x: float) -> np.ndarray:
    affine = grid.affine.copy()
    affine[0, -1] += x
    return affine


class TestRefusals:
    @pytest.fixture(autouse=True)
    def no_engine(self, monkeypatch):
        """Bad input must be found before the work starts."""

        def start(*args, **options) -> None:
            raise AssertionError("the engine was started")

        monkeypatch.setattr(RegistrationEngine, "__init__", start)

    def refusal(self, *args, **options) -> str:
        with pytest.raises(InputError) as caught:
            run(*args, **options)
        message = str(caught.value)
        assert "\n" not in message and len(message) > 20
        return message

    def test_the_engine_is_what_good_input_reaches(self, images):
        with pytest.raises(AssertionError, match="was started"):
            run(*images)

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    @pytest.mark.parametrize(
        ("name", "values", "told"),
        [
            ("missing", None, "no such file"),
            ("four", torch.rand(1, 8, 8, 8, 5), "8, 8, 8"),
            ("constant", torch.full((1, 8, 8, 8), 3.0), "constant"),
            ("nan", torch.where(torch.rand(1, 8, 8, 8) < 0.8, torch.nan, 1.0), "NaN"),
            ("text", "not an image", "read"),
        ],
    )
    def test_images(self, images, tmp_path, role, name, values, told):
        path = tmp_path / f"{name}.nii.gz"
        if isinstance(values, str):
            path.write_text(values)
        elif values is not None:
            nib.save(nib.Nifti1Image(values[0].numpy(), np.eye(4)), path)
        sources = {"fixed": images[0], "moving": images[1], role: path}
        message = self.refusal(sources["fixed"], sources["moving"])
        assert role in message and str(path) in message and told in message

    def test_no_overlap(self, images):
        far = image(images[1].as_tensor()[0], Grid(MOVING[3].shape, shifted(MOVING[3], 500)))
        message = self.refusal(images[0], far, {"initialization": "world"})
        assert "0 %" in message and "centers" in message
        assert "0 %" in self.refusal(*images, initial=shifted(Grid((1, 1, 1), np.eye(4)), 500))

    def test_numbers_of_axes(self, images):
        message = self.refusal(images[0], waves(MOVING[2]))
        expected = f"fixed image {FIXED[3].shape} and moving image {MOVING[2].shape}: both must be 2-D or both 3-D."
        assert message == expected

    @pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
    def test_devices(self, images, device):
        message = self.refusal(*images, device=device)
        assert device in message and "cpu" in message

    @pytest.mark.parametrize("preset", ["fats", {"itrations": 3}, {"preset": "fats"}])
    def test_presets(self, images, preset):
        message = self.refusal(*images, preset)
        assert "default" in message or "iterations" in message or "stages" in message

    @pytest.mark.parametrize(
        "initial",
        [
            np.eye(3),
            np.diag([1.0, 0, 1, 1]),
            np.diag([1.0, np.nan, 1, 1]),
            torch.zeros(3, 5, 5, 5),
            torch.full((3, *FIXED[3].shape), torch.nan),
            np.zeros((3, *MOVING[3].shape)),
        ],
        ids=["size", "singular", "nan", "shape", "nan field", "moving grid"],
    )
    def test_initial(self, images, initial):
        assert "initial" in self.refusal(*images, initial=initial)

    def test_initial_files(self, images, tmp_path):
        for name in ("none.tfm", "none.nii.gz"):
            assert name in self.refusal(*images, initial=tmp_path / name)
        write_affine(tmp_path / "flat.tfm", np.eye(3))
        assert "initial" in self.refusal(*images, initial=tmp_path / "flat.tfm")

    @pytest.mark.parametrize("shape", [MOVING[3].shape, FIXED[3].shape[:2]])
    def test_initial_velocity(self, images, shape):
        assert "initial_velocity" in self.refusal(*images, initial_velocity=torch.zeros(3, *shape))
        assert "initial_velocity" in self.refusal(*images, initial_velocity=torch.full((3, *FIXED[3].shape), torch.nan))

    def test_an_initial_field_together_with_an_initial_velocity(self, images, tmp_path):
        velocity = torch.zeros(3, *FIXED[3].shape)
        write_displacement_field(tmp_path / "field.nii.gz", velocity, FIXED[3])
        for field in (velocity, tmp_path / "field.nii.gz"):
            message = self.refusal(*images, initial=field, initial_velocity=velocity)
            assert "displacement field" in message and "initial_velocity" in message
        with pytest.raises(AssertionError, match="was started"):  # an affine may go with a velocity
            run(*images, initial=np.eye(4), initial_velocity=velocity)

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_masks(self, images, role):
        away = image(np.ones(FIXED[3].shape), Grid(FIXED[3].shape, shifted(FIXED[3], 500)))
        for mask, told in (
            (away, "meet"),
            (image(np.zeros(FIXED[3].shape), FIXED[3]), "empty"),
            (image(np.ones(FIXED[2].shape), FIXED[2]), "2-D"),
        ):
            message = self.refusal(*images, **{f"{role}_mask": mask})
            assert f"{role} mask" in message and told in message


class TestResult:
    def test_geometry(self, result):
        fixed, moving = result.fixed_grid, result.moving_grid
        assert result.forward_mm.shape == (fixed.dims, *fixed.shape) and result.inverse_mm.shape == (moving.dims, *moving.shape)
        for warped, grid in ((result.warped_moving, fixed), (result.warped_fixed, moving)):
            assert isinstance(warped, MetaTensor) and warped.shape == (1, *grid.shape)
            np.testing.assert_allclose(Grid.of(warped).affine, grid.affine, atol=1e-9)
        torch.testing.assert_close(result.forward_ddf, to_voxels(result.forward_mm, fixed))
        torch.testing.assert_close(result.inverse_ddf, to_voxels(result.inverse_mm, moving))

    def test_summary_is_plain_json(self, result):
        def refuse(constant: str):
            raise AssertionError(f"{constant} is not JSON")

        summary = json.loads(json.dumps(result.summary()), parse_constant=refuse)
        expected = {"inputs", "settings", "seed", "device", "seconds", "affine", "jacobian", "stages", "versions"}
        assert expected <= set(summary)
        assert RegistrationConfig.of(summary["settings"]) == result.config
        assert [len(s["loss"]) for s in summary["stages"]] == [3, 3]
        assert {"monai_locor", "monai", "torch", "itk"} <= set(summary["versions"])
        np.testing.assert_array_equal(summary["affine"], result.affine)

    def test_labels_stay_labels(self, result):
        labels = torch.randint(1, 9, (2, *result.moving_grid.shape), dtype=torch.int16) * 100
        warped = result.warp_moving(labels, "nearest")
        assert warped.dtype == torch.int16 and warped.shape == (2, *result.fixed_grid.shape)
        assert set(warped.unique().tolist()) <= {0, *labels.unique().tolist()}
        back = result.warp_fixed(torch.ones(1, *result.fixed_grid.shape, dtype=torch.uint8), "nearest")
        assert back.shape == (1, *result.moving_grid.shape) and set(back.unique().tolist()) <= {0, 1}

    def test_warping_another_image_is_warping_the_moving_image(self, result):
        moving = waves(MOVING[result.fixed_grid.dims])
        torch.testing.assert_close(result.warp_moving(moving).as_tensor(), result.warped_moving.as_tensor())

    def test_nothing_is_invented_where_the_moving_image_ends(self):
        """Air is -1024 in CT: zero would be water."""
        ct = image(np.full(MOVING[3].shape, -1024.0), MOVING[3])
        ct[0, 4:-4, 4:-4, 4:-4] = 40 * torch.rand(16, 14, 22)
        start = np.eye(4)
        start[0, 3] = 9
        found = run(waves(FIXED[3]), ct, NOTHING, initial=start)
        warped = found.warped_moving.as_tensor()
        outside = ~inside(mapped_points(FIXED[3], MOVING[3], found.forward_mm), MOVING[3].shape, margin=-1)
        assert outside.any() and (warped[0][outside] == -1024).all()
        assert float(warped.min()) >= -1024 - 1e-3 and float(warped.max()) <= 40 + 1e-3


class TestSave:
    def test_all_files_and_nothing_else(self, result, tmp_path):
        paths = result.save(tmp_path / "new" / "out")
        assert {p.name for p in paths} == FILES == {p.name for p in (tmp_path / "new" / "out").iterdir()}
        assert json.loads((tmp_path / "new" / "out" / "run.json").read_text()) == json.loads(json.dumps(result.summary()))
        result.save(tmp_path / "new" / "out")  # again, over itself

    def test_fields_and_images_come_back(self, result, tmp_path):
        result.save(tmp_path)
        for name, field, grid in (
            ("forward", result.forward_mm, result.fixed_grid),
            ("inverse", result.inverse_mm, result.moving_grid),
        ):
            back, read = read_displacement_field(tmp_path / f"{name}_field.nii.gz")
            torch.testing.assert_close(back, field)
            np.testing.assert_allclose(read.affine, grid.affine, atol=1e-4)
        np.testing.assert_allclose(read_affine(tmp_path / "affine.tfm"), result.affine, atol=1e-9)
        warped, _ = read_image(tmp_path / "warped.nii.gz")
        torch.testing.assert_close(warped.as_tensor(), result.warped_moving.as_tensor())
        np.testing.assert_allclose(Grid.of(warped).affine, result.fixed_grid.affine, atol=1e-4)

    def test_itk_alone_warps_the_moving_image_likewise(self, result, tmp_path):
        itk = pytest.importorskip("itk")
        dims, fixed, moving = result.fixed_grid.dims, result.fixed_grid, result.moving_grid
        result.save(tmp_path)
        source = tmp_path / "moving.nii"
        nib.save(nib.Nifti1Image(waves(moving).as_tensor()[0].numpy(), waves(moving).affine.numpy()), source)
        vectors = read(tmp_path / "forward_field.nii.gz", itk.Vector[itk.F, dims], dims)
        picture, field = itk.Image[itk.F, dims], itk.Image[itk.Vector[itk.F, dims], dims]
        warp = itk.WarpImageFilter[picture, picture, field].New(read(source, itk.F, dims), DisplacementField=vectors)
        warp.SetOutputParametersFromImage(vectors)
        warp.Update()
        here = inside(mapped_points(fixed, moving, result.forward_mm), moving.shape, margin=0.01).numpy()
        assert here.mean() > 0.5
        ours, theirs = result.warped_moving.numpy()[0][here], itk.array_from_image(warp.GetOutput()).T[here]
        assert np.abs(ours - theirs).max() < 1e-2 * np.ptp(ours)
        assert np.abs(ours - theirs).mean() < 1e-3 * np.ptp(ours)

    def test_itk_alone_applies_the_affine_likewise(self, result, tmp_path):
        itk = pytest.importorskip("itk")
        result.save(tmp_path)
        dims = result.fixed_grid.dims
        (transform,) = itk.transformread(str(tmp_path / "affine.tfm"))
        signs = np.array([-1.0, -1.0, 1.0])[:dims]
        for point in result.fixed_grid.corners():
            moved = np.array(transform.TransformPoint((point * signs).tolist())) * signs
            np.testing.assert_allclose(moved, apply_affine(result.affine, point), atol=1e-6)

    def test_an_output_that_cannot_be_written_is_named(self, result, tmp_path):
        (tmp_path / "file").write_text("mine")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(InputError, match="file") as caught:
                result.save(folder)
            assert "\n" not in str(caught.value)
        assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def read(path: Path, pixel, dims: int):
    import itk

    reader = itk.ImageFileReader[itk.Image[pixel, dims]].New(FileName=str(path))
    reader.Update()
    return reader.GetOutput()
