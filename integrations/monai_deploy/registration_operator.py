# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The operator of the App SDK that registers the selected series."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from registering import ImageSeries, Outcome, Settings, chosen_pair, register_series

__all__ = ["RegistrationOperator"]

NO_IMAGES = ("SEG", "RTDOSE")  # modalities whose objects have pixels, but are no images


class RegistrationOperator(Operator):
    """Register the moving to the fixed series, and write the outputs.

    Named input:
        study_selected_series_list: of the SDK's ``DICOMSeriesSelectorOperator``, with selections ``fixed`` and ``moving``.

    Named outputs:
        text: verdict with its reasons, for ``DICOMTextSRWriterOperator``.
        fixed_series_list: the study of the fixed series with this series alone, for the same operator.

    Attributes:
        outcome: of the last run; None before.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, input_folder: Path, output_folder: Path, settings: Settings, **kwargs: Any
    ) -> None:
        """Args: see :func:`registering.register_series`."""
        self.folders, self.settings = (Path(input_folder), Path(output_folder)), settings
        self.outcome: Outcome | None = None
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the ports."""
        spec.input("study_selected_series_list")
        spec.output("text")
        spec.output("fixed_series_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Register; the verdict is logged, as an error if it is FAIL."""
        studies = op_input.receive("study_selected_series_list")
        candidates = {role: _candidates(studies, role) for role in ("fixed", "moving")}
        pair = chosen_pair(candidates)
        self.outcome = register_series(*self.folders, pair, self.settings)
        logging.getLogger(__name__).log(self.outcome.verdict.log_level, "%s", self.outcome.text)
        latin = self.outcome.text.encode("latin-1", "replace").decode("latin-1")  # the only characters of the writer
        op_output.emit(latin, "text")
        op_output.emit([_alone(studies, pair[0].uid)], "fixed_series_list")


def _candidates(studies: list[StudySelectedSeries], role: str) -> list[ImageSeries]:
    """The image series that fit the rule of a role."""
    found = []
    for study in studies:
        for selected in study.series_by_selection_name.get(role, ()):
            series = selected.series
            first = series.get_sop_instances()[0].get_native_sop_instance()
            if "Rows" in first and series.Modality not in NO_IMAGES:
                named = (series.SeriesInstanceUID, series.Modality, series.SeriesDescription, first.get("PatientID"))
                found.append(ImageSeries(*(str(value or "") for value in named)))
    return found


def _alone(studies: list[StudySelectedSeries], uid: str) -> StudySelectedSeries:
    """The study of a series with this series alone; the writer takes patient and study from the first series."""
    for study in studies:
        for selected in study.selected_series:
            if str(selected.series.SeriesInstanceUID) == uid:
                made = StudySelectedSeries(study.study)
                made.add_selected_series(SelectedSeries("fixed", selected.series))
                return made
    raise KeyError(uid)
