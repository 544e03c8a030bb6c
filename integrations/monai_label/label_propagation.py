# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The MONAI Label task that carries labels from a labeled study to a new one."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from label_carrying import Labeled, carried_labels, nearest
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import name_to_device

from monai_locor import InputError

__all__ = ["LabelPropagation"]

logger = logging.getLogger(__name__)

UNPROCESSABLE = 422  # status of a request that is understood and cannot be answered


class LabelPropagation(InferTask):
    """Register the nearest labeled study to the requested image, and return its labels with the verdict.

    Options of a request: ``source``, the ID of the study whose labels are carried; ``preset`` and ``transform``, see
    :func:`monai_locor.register`; ``candidates``, how many studies are compared if no source is named, the last labeled first.
    """

    def __init__(self, datastore: Datastore, labels: Mapping[str, int], **options: Any) -> None:
        """Take the datastore with the labeled studies, the names of labels with their values, and defaults of the options."""
        text = "Labels of the nearest labeled study, carried over by deformable registration"
        config = {"preset": "default", "transform": "deformable", "candidates": 5, "source": "", **options}
        super().__init__(InferType.SEGMENTATION, dict(labels), 3, text, config)
        self.datastore = datastore

    def is_valid(self) -> bool:
        """Whether the model can be asked."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Carry labels to ``request["image"]``.

        Returns:
            a new label file (NIfTI), and ``label_names``, ``source``, ``verdict`` and ``latencies``.

        Raises:
            HTTPException: with the reasons, if the verdict is FAIL, no study is labeled, or an image cannot be registered.
        """
        try:
            return self._answer(request)
        except InputError as error:
            raise HTTPException(UNPROCESSABLE, str(error)) from error

    def _answer(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        start = time.monotonic()
        wanted = {**self.config(), **request}
        image, device = str(wanted["image"]), name_to_device(wanted.get("device") or "cuda")
        source = self._source(image, str(wanted["source"] or ""), int(wanted["candidates"]), device)
        carried = carried_labels(image, source, str(wanted["preset"]), str(wanted["transform"]), device)
        verdict = carried.verdict
        logger.log(verdict.log_level, "%s: %s", source.name, verdict)
        if verdict.status == "FAIL":
            raise InputError(f"the registration of {source.name} failed, no labels are returned. {verdict}")
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:  # removed by the server
            target = Path(file.name)
        carried.write(target)
        return str(target), {
            "label_names": self._names(carried.values),
            "source": source.name,
            "verdict": verdict.to_dict(),
            "latencies": {"total": round(time.monotonic() - start, 2)},
        }

    def _source(self, image: str, name: str, most: int, device: str) -> Labeled:
        """The named study, or the nearest of the last labeled ones."""
        tag = DefaultLabelTag.FINAL
        known = {
            each: Labeled(each, self.datastore.get_image_uri(each), self.datastore.get_label_uri(each, tag))
            for each in self.datastore.get_labeled_images()
        }
        if name:
            if name not in known:
                raise InputError(f"source {name}: has no final labels; choose among {', '.join(known) or 'none'}")
            return known[name]
        others = [each for each in known if Path(known[each].image).resolve() != Path(image).resolve()]
        others.sort(key=lambda each: -self.datastore.get_label_info(each, tag).get("ts", 0))
        return nearest(image, [known[each] for each in others[:most]], device)

    def _names(self, values: list[int]) -> dict[str, int]:
        """The names of the labels that there are; of others, their value."""
        names = {value: name for name, value in self.labels.items()}
        return {names.get(value, f"label {value}"): value for value in values}
