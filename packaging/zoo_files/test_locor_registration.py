# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Inference and training of the bundle on images made here: runs in the model zoo's repository, from its `ci/unit_tests`."""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from scipy.ndimage import gaussian_filter

BUNDLE = Path(os.environ.get("LOCOR_BUNDLE", Path(__file__).resolve().parents[2] / "models" / "locor_registration"))
STAGES = {"stages": [{"factor": 2, "iterations": 10}, {"factor": 2, "iterations": 10, "spacing": 16}]}
OUTPUTS = {"warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz", "affine.tfm", "run.json"}
SMALL_TRAINING = {"epochs": 1, "pairs_per_epoch": 2, "max_pairs": 2, "max_validation_pairs": 2, "tf_dir": None, "stride": 1}


def workflow(config: str, kind: str, **options: object) -> ConfigWorkflow:
    """The workflow of one configuration, initialized and with all properties that MONAI asks for."""
    made = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / config),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=str(BUNDLE / "configs" / "logging.conf"),
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        device="cpu",
        **options,
    )
    made.initialize()
    missing = made.check_properties()
    if missing:
        raise ValueError(f"{config} lacks {missing}")
    return made


class TestLocorRegistration(unittest.TestCase):
    """The configurations run."""

    def setUp(self) -> None:
        """Write one anatomy in two contrasts, and settings for a short registration."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(lambda: [os.remove(path) for path in self.folder.rglob("*") if path.is_file()])
        anatomy = gaussian_filter(np.random.default_rng(0).normal(size=(40, 40, 40)), 3)
        anatomy /= anatomy.std()
        self.files = {}
        for number, shift in enumerate((0, 1, 2)):
            shifted = np.roll(anatomy, shift, 0)
            for name, values in (("fixed", np.tanh(shifted)), ("moving", np.exp(-((shifted - 0.5) ** 2)))):
                self.files[f"{name}{number}"] = str(self.folder / f"{name}{number}.nii.gz")
                image = nib.Nifti1Image(values[4:-4, 4:-4, 4:-4].astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
                nib.save(image, self.files[f"{name}{number}"])
        self.preset = self.folder / "preset.json"
        self.preset.write_text(json.dumps(STAGES), encoding="utf-8")

    def test_inference(self) -> None:
        """A registration writes its files, from the identity and from the network."""
        for use_network in (False, True):
            out = self.folder / f"out_{use_network}"
            made = workflow(
                "inference.json",
                "infer",
                fixed=self.files["fixed0"],
                moving=self.files["moving1"],
                preset=str(self.preset),
                use_network=use_network,
                report=False,
                output_dir=str(out),
            )
            try:
                made.run()
            except SystemExit as verdict:  # after a registration this short; the files are written nevertheless
                self.assertEqual(verdict.code, 1)
            made.finalize()
            self.assertLessEqual(OUTPUTS, {path.name for path in out.iterdir()})

    def test_training(self) -> None:
        """One epoch of training writes the weights."""
        subjects = [{"name": str(n), "fixed": self.files[f"fixed{n}"], "moving": self.files[f"moving{n}"]} for n in range(3)]
        datalist = self.folder / "subjects.json"
        datalist.write_text(json.dumps({"training": subjects[:2], "validation": subjects[2:]}), encoding="utf-8")
        weights = self.folder / "weights"
        made = workflow(
            "train.json",
            "train",
            datalist=str(datalist),
            pairing="within",
            alignment="start",
            ckpt_dir=str(weights),
            output_dir=str(self.folder / "scores"),
            **SMALL_TRAINING,
        )
        made.run()
        made.finalize()
        self.assertTrue((weights / "model.pt").is_file())


if __name__ == "__main__":
    unittest.main()
