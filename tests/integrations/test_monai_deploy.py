# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The MONAI Deploy application: with a stand-in of the App SDK, and with the App SDK itself where it is installed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pydicom
import pytest

from monai_locor import InputError

from ..io.dicom_pairs import CT, MR, write_pair
from ..registration.short_runs import NOTHING
from . import deploy_sdk
from .stand_ins import imported

APP = Path(__file__).resolve().parents[2] / "integrations" / "monai_deploy"
OWN = ("app", "registering", "registration_operator")
INSTALLED = importlib.util.find_spec("holoscan") is not None
CT_UID, MR_UID = CT["SeriesInstanceUID"], MR["SeriesInstanceUID"]


@pytest.fixture
def own(monkeypatch):
    """The modules of the application, imported beside the stand-in."""
    with imported(monkeypatch, APP, OWN, deploy_sdk.modules()) as modules:
        yield modules


@pytest.fixture
def judged(own, monkeypatch):
    """Let the registrations do nothing and end with a verdict of this status."""

    def patch(status):
        register = own["registering"].register

        def quick(*pair, **options):
            result = register(*pair, **{**options, "preset": NOTHING, "transform": None})
            return dataclasses.replace(result, verdict=dataclasses.replace(result.verdict, status=status))

        monkeypatch.setattr(own["registering"], "register", quick)

    return patch


def selected(**roles):
    """One study with series by role."""
    study = deploy_sdk.StudySelectedSeries("study")
    for role, found in roles.items():
        for each in found:
            study.add_selected_series(deploy_sdk.SelectedSeries(role, each))
    return study


class Ports(dict):
    def receive(self, name):
        return self[name]

    def emit(self, value, name):
        self[name] = value


def test_each_rule_fits_one_series(own):
    registering = own["registering"]
    ct, mr, other = (registering.ImageSeries(uid, kind, "head", "P1") for uid, kind in (("1", "CT"), ("2", "MR"), ("3", "MR")))
    assert registering.chosen_pair({"fixed": [ct], "moving": [ct, mr]}) == (ct, mr)
    with pytest.raises(InputError, match=r"fixed series fits 0 series; change selection/fixed in app.yaml"):
        registering.chosen_pair({"moving": [ct, mr]})
    with pytest.raises(InputError, match=r"moving series fits 2 series: head \(MR, 2\), head \(MR, 3\);"):
        registering.chosen_pair({"fixed": [ct], "moving": [ct, mr, other]})
    with pytest.raises(InputError, match="the patients 'P1' and 'P2'"):
        registering.chosen_pair({"fixed": [ct], "moving": [dataclasses.replace(mr, patient="P2")]})


def test_fail_is_never_released(own):
    with pytest.raises(InputError, match="release FAIL: images are released with PASS or WARN only"):
        own["registering"].Settings(release=["PASS", "FAIL"])


@pytest.mark.slow
@pytest.mark.parametrize(("status", "release"), [("WARN", ["PASS", "WARN"]), ("WARN", ["PASS"]), ("FAIL", ["PASS", "WARN"])])
def test_operator(own, judged, tmp_path, caplog, status, release):
    judged(status)
    write_pair(tmp_path / "in" / "study")
    settings = own["registering"].Settings(release=release)
    operator = own["registration_operator"].RegistrationOperator(
        None, input_folder=tmp_path / "in", output_folder=tmp_path / "out", settings=settings, name="registration"
    )
    mr = deploy_sdk.series(MR_UID, "MR", "MR head 頭")
    segments = deploy_sdk.series("1.9", "SEG", "segments")
    studies = [selected(moving=[mr, segments]), selected(fixed=[deploy_sdk.series(CT_UID, "CT", "CT head")])]
    answers = Ports()
    with caplog.at_level(logging.INFO):
        operator.compute(Ports(study_selected_series_list=studies), answers, None)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    released = status in release
    assert written == {"report.html", "run.json"} | ({"registration.dcm", "warped"} if released else set())
    assert answers["text"].startswith(f"Image registration: {status}\nFixed series: CT head") and "MR head ?" in answers["text"]
    assert ("were withheld" in answers["text"]) != released
    (study,) = answers["fixed_series_list"]
    assert [str(each.series.SeriesInstanceUID) for each in study.selected_series] == [CT_UID]
    (logged,) = (record for record in caplog.records if record.name == "registration_operator")
    assert logged.levelname == ("ERROR" if status == "FAIL" else "WARNING")
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["verdict"]["status"] == status
    with pytest.raises(InputError, match=r"of another registration|of an earlier run"):
        operator.compute(Ports(study_selected_series_list=studies), answers, None)


@pytest.mark.parametrize(("outcome", "code"), [("PASS", 0), ("WARN", 0), ("FAIL", 1), (None, 2), (InputError("no"), 2)])
def test_composition_and_exit_code(own, monkeypatch, outcome, code):
    module = own["app"]

    def run(app):
        app.compose()
        assert app.flows == [("loader", "selector"), ("selector", "registration"), ("registration", "verdict")]
        assert app.registration.settings == own["registering"].Settings(release=["PASS", "WARN"])
        assert json.loads(module.selection_rules({"fixed": {"Modality": "CT"}})) == {
            "selections": [{"name": "fixed", "conditions": {"Modality": "CT"}}]
        }
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            verdict = mock.Mock(status=outcome)
            app.registration.outcome = own["registering"].Outcome(verdict, "")

    monkeypatch.setattr(deploy_sdk.Application, "run", run, raising=False)
    monkeypatch.delenv("HOLOSCAN_CONFIG_PATH", raising=False)
    assert module.main() == code


@pytest.mark.skipif(not INSTALLED, reason="needs monai-deploy-app-sdk")
def test_stand_in_is_like_the_sdk():
    for path, parameters in deploy_sdk.API["classes"].items():
        module, name = path.rsplit(".", 1)
        found = inspect.signature(getattr(importlib.import_module(module), name).__init__).parameters
        assert list(found)[1:] == parameters, path
    for path, members in deploy_sdk.API["members"].items():
        module, name = path.rsplit(".", 1)
        missing = set(members) - set(dir(getattr(importlib.import_module(module), name)))
        assert not missing, path


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs monai-deploy-app-sdk")
def test_in_the_sdk(tmp_path):
    write_pair(tmp_path / "in" / "study")
    settings = tmp_path / "settings.yaml"
    text = (APP / "app.yaml").read_text(encoding="utf-8")
    settings.write_text(text.replace("preset: default", "preset: draft").replace("deformable", "rigid"), encoding="utf-8")
    environment = {**os.environ, "HOLOSCAN_CONFIG_PATH": str(settings)}

    def run():
        words = [sys.executable, APP, "-i", tmp_path / "in", "-o", tmp_path / "out"]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "out" / "verdict").iterdir()
    status = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["verdict"]["status"]
    assert pydicom.dcmread(report).ContentSequence[0].TextValue.startswith(f"Image registration: {status}\n")
    assert pydicom.dcmread(tmp_path / "out" / "registration.dcm").SeriesDescription == f"MR head to CT head ({status})"
    assert len(list((tmp_path / "out" / "warped").iterdir())) == 24
    again = run()
    assert again.returncode == 2 and "of another registration" in again.stderr
