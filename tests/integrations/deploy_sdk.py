# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A stand-in of the MONAI Deploy App SDK, whose classes take the parameters in monai_deploy_api.json and nothing else."""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Any

import yaml

API = json.loads(Path(__file__).with_name("monai_deploy_api.json").read_text(encoding="utf-8"))
KINDS = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}


class Operator:
    """Takes a fragment, conditions and a name; `setup` is called at once and the ports kept."""

    def __init__(self, fragment: Any, *conditions: Any, name: str = "") -> None:
        self.name, self.ports = name, ([], [])
        spec = types.SimpleNamespace(input=self.ports[0].append, output=self.ports[1].append)
        self.setup(spec)

    def setup(self, spec: Any) -> None:
        """Operators of the SDK have the ports that the description names."""
        for own, listed in zip(self.ports, API["ports"].get(self.name, ([], []))):
            own.extend(listed)


class Application:
    """Keeps the flows; a flow between ports that there are not is an error."""

    argv = ["app.py"]

    def config(self, path: str) -> None:
        self.settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))

    def kwargs(self, name: str) -> Any:
        return self.settings[name]

    def add_flow(self, source: Operator, target: Operator, ports: set[tuple[str, str]]) -> None:
        assert all(out in source.ports[1] and into in target.ports[0] for out, into in ports)
        self.flows = [*getattr(self, "flows", []), (source.name, target.name)]

    @staticmethod
    def init_app_context(argv: list[str]) -> Any:
        return types.SimpleNamespace(input_path="in", output_path="out")


class StudySelectedSeries:
    """The selected series of a study by name."""

    def __init__(self, study: Any, metadata: Any = None) -> None:
        self.study, self.series_by_selection_name = study, {}

    @property
    def selected_series(self) -> list[Any]:
        return [each for found in self.series_by_selection_name.values() for each in found]

    def add_selected_series(self, selected: Any) -> None:
        self.series_by_selection_name.setdefault(selected.selection_name, []).append(selected)


class SelectedSeries:
    def __init__(self, selection_name: str, dicom_series: Any, image: Any = None, metadata: Any = None) -> None:
        self.selection_name, self.series = selection_name, dicom_series


def series(uid: str, modality: str, description: str = "", patient: str = "P1", **more: Any) -> Any:
    """A series of the SDK with one instance."""
    native = {"Rows": 4, "PatientID": patient, **more}
    instance = types.SimpleNamespace(get_native_sop_instance=lambda: native)
    named = {"SeriesInstanceUID": uid, "Modality": modality, "SeriesDescription": description}
    return types.SimpleNamespace(get_sop_instances=lambda: [instance], **named)


def _checked(name: str) -> type:
    parameters = API["classes"][f"monai.deploy.operators.{name}"]
    kind = inspect.Parameter.KEYWORD_ONLY if "args" in parameters else inspect.Parameter.POSITIONAL_OR_KEYWORD
    taken = [inspect.Parameter(parameters[0], inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)]
    taken += [inspect.Parameter(each, KINDS.get(each, kind), **_default(each)) for each in parameters[1:]]

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        self.given = inspect.Signature(taken).bind(*args, **kwargs).arguments
        if "fragment" in parameters:
            Operator.__init__(self, None, name=kwargs["name"])

    return type(name, (Operator,) if "fragment" in parameters else (), {"__init__": init})


def _default(name: str) -> dict[str, Any]:
    return {} if name in KINDS else {"default": None}


def modules() -> dict[str, types.ModuleType]:
    """The modules of the stand-in, by name."""
    operators = {name.rsplit(".", 1)[1]: None for name in API["classes"] if ".operators." in name}
    contents: dict[str, dict[str, Any]] = {
        "monai.deploy": {},
        "monai.deploy.conditions": {"CountCondition": lambda fragment, count: count},
        "monai.deploy.core": {
            **{"Application": Application, "Operator": Operator},
            **{name: object for name in ("AppContext", "Fragment", "OperatorSpec")},
        },
        "monai.deploy.core.domain": {},
        "monai.deploy.core.domain.dicom_series_selection": {
            "SelectedSeries": SelectedSeries,
            "StudySelectedSeries": StudySelectedSeries,
        },
        "monai.deploy.operators": {name: _checked(name) for name in operators},
    }
    made = {}
    for name, content in contents.items():
        made[name] = types.ModuleType(name)
        made[name].__dict__.update(content)
    return made
