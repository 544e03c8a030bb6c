# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""MONAI Label app: labels of a labeled study are carried to the next one by registration."""

from __future__ import annotations

import json
from typing import Any

from label_propagation import LabelPropagation
from monailabel.interfaces.app import MONAILabelApp

__all__ = ["RegistrationLabelApp"]

OPTIONS = ("preset", "transform", "candidates")


class RegistrationLabelApp(MONAILabelApp):
    """An app with the model ``propagate``.

    Configuration (``--conf NAME VALUE``): ``labels``, a JSON object of names and values; ``preset``, ``transform`` and
    ``candidates``, defaults of :class:`label_propagation.LabelPropagation`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        """Take the folder of this app, the studies, and the configuration."""
        self.names = {str(name): int(value) for name, value in json.loads(conf.get("labels") or "{}").items()}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="MONAI Locor label propagation",
            description="Carries labels from a labeled study to a new one by deformable registration",
            version="1.0",
            labels=self.names,
        )

    def init_infers(self) -> dict[str, Any]:
        """The model of this app."""
        options = {name: self.conf[name] for name in OPTIONS if name in self.conf}
        return {"propagate": LabelPropagation(self.datastore(), self.names, **options)}
