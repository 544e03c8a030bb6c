# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""MONAI Deploy application: a fixed and a moving DICOM series in, the registered series and the transform out."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMTextSRWriterOperator,
    EquipmentInfo,
    ModelInfo,
)
from registering import Settings
from registration_operator import RegistrationOperator

from monai_locor import __version__

__all__ = ["RegistrationApp", "main"]

CONFIG = Path(__file__).with_name("app.yaml")


class RegistrationApp(Application):
    """Loader and selector of the SDK, the registration, and a text report of its verdict.

    Input and output folder are those of the SDK: ``-i`` and ``-o``, or ``HOLOSCAN_INPUT_PATH`` and ``HOLOSCAN_OUTPUT_PATH``.
    The settings are those of ``HOLOSCAN_CONFIG_PATH``, or of ``app.yaml`` beside this file.
    """

    def compose(self) -> None:
        """Connect the operators."""
        context: AppContext = Application.init_app_context(self.argv)
        source, target = Path(context.input_path), Path(context.output_path)
        self.config(os.environ.get("HOLOSCAN_CONFIG_PATH") or str(CONFIG))
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=source, name="loader")
        rules = selection_rules(self.kwargs("selection"))
        selector = DICOMSeriesSelectorOperator(self, rules=rules, all_matched=True, name="selector")
        self.registration = RegistrationOperator(
            self,
            input_folder=source,
            output_folder=target,
            settings=Settings(**self.kwargs("registration")),
            name="registration",
        )
        about = ModelInfo("The monai_locor developers", "monai-locor", __version__)
        writer = DICOMTextSRWriterOperator(
            self,
            output_folder=target / "verdict",
            model_info=about,
            copy_tags=True,
            equipment_info=EquipmentInfo("The monai_locor developers", "monai-locor", software_version_number=__version__),
            name="verdict",
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        series = "study_selected_series_list"
        self.add_flow(selector, self.registration, {(series, series)})
        self.add_flow(self.registration, writer, {("text", "text"), ("fixed_series_list", series)})


def selection_rules(conditions: dict[str, dict[str, Any]]) -> str:
    """The conditions of each role as rules of ``DICOMSeriesSelectorOperator``, JSON."""
    return json.dumps({"selections": [{"name": role, "conditions": fits} for role, fits in conditions.items()]})


def main() -> int:
    """Run the application.

    Returns:
        0 for the verdicts PASS and WARN, 1 for FAIL, 2 for an error.
    """
    app = RegistrationApp()
    try:
        app.run()
        outcome = app.registration.outcome
    except Exception:
        logging.getLogger(__name__).exception("the series were not registered")
        return 2
    return 2 if outcome is None else int(outcome.verdict.status == "FAIL")


if __name__ == "__main__":
    sys.exit(main())
