# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A stand-in of MONAI Label, whose methods take the parameters in monai_label_api.json."""

from __future__ import annotations

import json
import types
from enum import Enum
from pathlib import Path
from typing import Any

API = json.loads(Path(__file__).with_name("monai_label_api.json").read_text(encoding="utf-8"))


class HTTPException(Exception):  # noqa: N818 - the name in fastapi
    def __init__(self, status_code: int, detail: str = "", headers: Any = None) -> None:
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


class Tag(str, Enum):
    FINAL = "final"


class Kind(str, Enum):
    SEGMENTATION = "segmentation"


class InferTask:
    def __init__(self, type: Any, labels: Any, dimension: int, description: str, config: Any = None) -> None:
        self.type, self.labels, self.dimension, self.description, self._config = type, labels, dimension, description, config

    def config(self) -> dict[str, Any]:
        return self._config


class MONAILabelApp:
    def __init__(
        self,
        app_dir: str,
        studies: str,
        conf: Any,
        name: str = "",
        description: str = "",
        version: str = "",
        labels: Any = None,
    ) -> None:
        self.conf, self.labels = conf, labels
        self.infers = self.init_infers()

    def datastore(self) -> Any:
        return Datastore({})


class Datastore:
    """Studies by ID: image file, label file, and when it was labeled."""

    def __init__(self, studies: dict[str, tuple[str, str, int]]) -> None:
        self.studies = studies

    def get_labeled_images(self, label_tag: Any = None, labels: Any = None) -> list[str]:
        return list(self.studies)

    def get_image_uri(self, image_id: str) -> str:
        return self.studies[image_id][0]

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        assert label_tag == "final"
        return self.studies[label_id][1]

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return {"ts": self.studies[label_id][2]}


def modules() -> dict[str, types.ModuleType]:
    """The modules of the stand-in, by name."""
    contents: dict[str, dict[str, Any]] = {
        "fastapi": {"HTTPException": HTTPException},
        "monailabel": {},
        "monailabel.interfaces": {},
        "monailabel.interfaces.app": {"MONAILabelApp": MONAILabelApp},
        "monailabel.interfaces.datastore": {"Datastore": Datastore, "DefaultLabelTag": Tag},
        "monailabel.interfaces.tasks": {},
        "monailabel.interfaces.tasks.infer_v2": {"InferTask": InferTask, "InferType": Kind},
        "monailabel.utils": {},
        "monailabel.utils.others": {},
        "monailabel.utils.others.generic": {"name_to_device": lambda device: "cpu"},
    }
    made = {}
    for name, content in contents.items():
        made[name] = types.ModuleType(name)
        made[name].__dict__.update(content)
    return made
