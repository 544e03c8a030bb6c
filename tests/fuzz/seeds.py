# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small valid files of every kind that is read, written once per session into one folder for each target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import torch

from monai_locor import register
from monai_locor.geometry import SpatialTransform
from monai_locor.io import PointList, write_image, write_points, write_transform
from monai_locor.io.transforms import FORMATS
from monai_locor.registration import RegistrationConfig, Stage

from ..io.dicom_files import AXIAL, enhanced, mosaic, places, save, slice_of, write_series
from ..io.transform_cases import some_affine, some_transform
from ..meshes import ROUND_TRIP, ellipsoid, write_mesh
from ..phantoms import image, turned

FIXED = turned(0.3, (1.2, 1.5, 3.0), (8, 6, 6))
MOVING = turned(-0.2, (1.8, 2.1, 2.3), (9, 8, 8))
NIFTI_FORMATS = ("ras-displacement", "lps-displacement", "ras-positions", "lps-positions", "voxel-positions", "spm")


def make_seeds(folder: Path) -> None:
    """Write all files below ``folder``."""
    _images(folder / "image")
    _transforms(folder / "transform")
    _texts(folder)
    _surfaces(folder / "surface")
    _run(folder / "run")


def _images(folder: Path) -> None:
    folder.mkdir(parents=True)
    texture = np.random.default_rng(0).normal(size=FIXED.shape).astype(np.float32) * 50 + 100
    labels, rgb = (texture > 100).astype(np.uint8), np.zeros(FIXED.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, data in (("float", texture), ("labels", labels), ("series", np.stack([texture] * 2, -1)), ("rgb", rgb)):
        nib.save(nib.Nifti1Image(data, FIXED.affine), folder / f"{name}.nii")
    scaled = nib.Nifti1Image(texture.astype(np.int16), FIXED.affine)
    scaled.header.set_slope_inter(0.5, 3)
    nib.save(scaled, folder / "scaled.nii.gz")
    nib.save(nib.Nifti2Image(texture, FIXED.affine), folder / "two.nii")
    nib.save(nib.MGHImage(texture, FIXED.affine), folder / "a.mgz")
    nib.save(nib.Nifti1Pair(texture, FIXED.affine), folder / "pair.hdr")
    shutil.move(folder / "pair.img", folder / "fuzz.pair.img")  # beside fuzz.pair.hdr
    for name in ("plain.nrrd", "plain.mha", "apart.mhd", "apart.nhdr"):
        itk.imwrite(itk.image_from_array(texture), str(folder / name))
    for name in ("packed.nrrd", "packed.mha"):
        write_image(folder / name, torch.from_numpy(texture), FIXED)
    for name in ("a.png", "a.tif"):
        itk.imwrite(itk.image_from_array(labels[0]), str(folder / name))
    save(folder / "slice.dcm", slice_of((0, 0, 0)))
    save(folder / "frames.dcm", enhanced([(place, 0, {}) for place in places(AXIAL, 3)]))
    save(folder / "mosaic.dcm", mosaic(4, csa_sign=1))


def _transforms(folder: Path) -> None:
    folder.mkdir(parents=True)
    deformed, affine = some_transform(FIXED), SpatialTransform.of_affine(some_affine(3))
    for kind in FORMATS.values():
        if kind.writes and kind.name not in ("ants", "dicom"):
            for suffix in kind.suffixes:
                text = suffix in (".tfm", ".mat", ".txt") and kind.name == "itk"
                path = folder / f"{kind.name}{suffix}"
                write_transform(
                    path, affine if kind.affine_only or text else deformed, format=kind.name, fixed=FIXED, moving=MOVING
                )
    write_transform(folder / "elastix_affine.txt", affine, format="elastix", fixed=FIXED)
    write_transform(folder / "affine.h5", affine)
    field = np.moveaxis(deformed.displacement(FIXED).numpy(), 0, -1)
    for name in NIFTI_FORMATS:
        nib.save(nib.Nifti1Image(field[..., None, :], FIXED.affine), folder / f"{name}.nii")
    numbers = " ".join(map(str, some_affine(3)[:3].ravel()))
    (folder / "afni.aff12.1D").write_text(f"# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n{numbers}\n")
    series = [
        write_series(folder.parent / f"series{k}", places(AXIAL, 3), volumes=({"FrameOfReferenceUID": f"1.2.{k}"},))
        for k in (1, 2)
    ]
    for name, transform in (("rigid", affine), ("deformed", deformed)):
        write_transform(folder / f"{name}.dcm", transform, format="dicom", fixed=series[0], moving=series[1])
    text = (folder / "lta.lta").read_text()
    (folder / "voxels.lta").write_text(text.replace("type      = 1", "type      = 0"))


def _surfaces(folder: Path) -> None:
    folder.mkdir(parents=True)
    for suffix in ROUND_TRIP:
        write_mesh(folder / f"a{suffix}", ellipsoid(rings=3))


def _texts(folder: Path) -> None:
    for name in ("points", "settings", "pairs", "basis"):
        (folder / name).mkdir(parents=True)
    found = PointList(torch.tensor([[1.0, 2, 3], [-4, 5.5, 6]]), ("a", "b"))
    for suffix in ("csv", "fcsv", "mrk.json"):
        write_points(folder / "points" / f"a.{suffix}", found)
    write_points(folder / "points" / "ants.csv", found, lps=True)
    (folder / "settings" / "default.json").write_text(json.dumps(RegistrationConfig().to_dict()))
    changes = {
        "preset": "fast",
        "stages.2.iterations": 5,
        "similarity": "mutual_information",
        "similarity_options": {"num_bins": 16},
    }
    (folder / "settings" / "changes.json").write_text(json.dumps(changes))
    near = folder / "image"
    pair = {
        "fixed": str(near / "float.nii"),
        "moving": str(near / "plain.mha"),
        "id": "a",
        "fixed_mask": str(near / "labels.nii"),
    }
    (folder / "pairs" / "monai.json").write_text(json.dumps({"testing": [pair, {**pair, "id": "b"}]}))
    learn2reg = {"registration_val": [pair], "training": [{"image": pair["fixed"], "mask": pair["fixed_mask"]}]}
    (folder / "pairs" / "learn2reg.json").write_text(json.dumps(learn2reg))
    rows = ["fixed,moving,id,fixed_mask", *(",".join([pair["fixed"], pair["moving"], key, ""]) for key in "ab")]
    (folder / "pairs" / "list.csv").write_text("\n".join(rows) + "\n")


def _run(folder: Path) -> None:
    folder.mkdir(parents=True)
    preset = RegistrationConfig(stages=(Stage(2, 1), Stage(2, 1, spacing=8)), multistart="never")
    grid = turned(0.1, (2.0, 2.0, 2.0), (12, 12, 12))
    pictures = [image(np.random.default_rng(k).normal(size=grid.shape), grid) for k in range(2)]
    result = register(*pictures, preset=preset, progress=False, device="cpu")
    result.save(folder)
    shutil.copy(folder / "run.json", folder / "valid.json")
    result.save_basis(folder.parent / "basis" / "a.safetensors", ("T1", "T2"))
