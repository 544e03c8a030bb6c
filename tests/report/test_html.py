# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report: complete in itself, everything escaped, pictures as they should be; and how a result shows itself."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import html
import io
import re
import sys
import types
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

from monai_locor import InputError, RegistrationResult
from monai_locor.data import random_diffeomorphism
from monai_locor.geometry import Grid
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.registration.basis_pair import BasisPair
from monai_locor.report import judge, write_report
from monai_locor.report.html.charts import curve, histogram
from monai_locor.report.html.explanations import CHECKS, NUMBERS
from monai_locor.report.html.images import views_of

from ..phantoms import image
from .results import GRID, GRID_2D, aligned, bumps, result_with

pytest.importorskip("matplotlib")

EVIL = '</script><script>alert(1)</script><img src="http://x.invalid/a.png">&'
VOID = {"meta", "link", "input", "img", "br", "use", "path", "rect", "line"}


class Reader(HTMLParser):
    """All tags with their attributes; raises when they are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("style", "script") else ""

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


def result_of(grid: Grid, channels: int = 2, **changes: Any) -> RegistrationResult:
    """A deformation whose inverse is wrong at some places, with learned bases."""
    field = random_diffeomorphism(grid, 0, rotation_deg=3, translation_mm=2, elastic_rms_mm=1, smoothing_mm=10)
    losses = [LocalLearnedBasisCRLoss(grid.dims, channels) for _ in range(2)]
    wrong = {"inverse": -field + bumps(grid), **changes}
    return result_with(*aligned(grid), field, basis=BasisPair.of(*losses), **wrong)


@pytest.fixture(scope="module")
def judged() -> RegistrationResult:
    result = result_of(GRID, interrupted=True, inputs={"fixed": EVIL, "moving": "a/moving.nii.gz"})
    arguments = {"fixed": {"path": EVIL, "sha256": "ab12"}, "moving": {"memory": "float32", "shape": [1]}}
    verdict = judge(result, result.fixed_image, result.moving_image)
    return dataclasses.replace(result, verdict=verdict, arguments=arguments)


@pytest.fixture(scope="module")
def page(judged, tmp_path_factory) -> str:
    path = write_report(tmp_path_factory.mktemp("report") / "new" / "report.html", judged)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


class TestPage:
    def test_it_is_well_formed_and_loads_nothing(self, page):
        read = Reader(page)
        places = [v for _, a in read.tags for k, v in a.items() if k in ("src", "href", "xlink:href", "action", "data")]
        assert places and all(v.startswith(("data:", "#")) for v in places)
        assert "url(" not in page and "@import" not in page and "http-equiv" in page
        (policy,) = (a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")

    def test_names_are_escaped(self, page):
        assert EVIL not in page and html.escape(EVIL) in page
        read = Reader(page)
        assert len(read.all("script")) == 1 and EVIL in read.text

    def test_every_reference_has_its_target(self, page):
        read = Reader(page)
        names = {a["id"] for _, a in read.tags if "id" in a}
        assert {a["href"][1:] for a in read.all("use")} <= names
        asked = set(re.findall(r'(?:getElementById|\bget)\("([^"]+)"\)', page))
        assert len(asked) > 10 and asked - {"labels", "landmarks", "error-of"} <= names  # with these only

    def test_the_verdict_comes_first_with_all_its_reasons(self, page, judged):
        text = Reader(page).text
        assert text.index(judged.verdict.status) < text.index("Where to look first") < text.index("Deformed grid")
        assert all(reason.text in text and reason.advice in text for reason in judged.verdict.reasons)
        assert "interrupted" in text

    def test_everything_is_there(self, page):
        read = Reader(page)
        sections = {a["id"] for a in read.all("section") if "id" in a}
        assert sections == {"verdict", "checks", "images", "transform", "residual", "basis", "optimization", "run"}
        told = [a["alt"] for a in read.all("img")]
        for view in ("axial", "coronal", "sagittal"):
            for name in ("warped moving image with contours of the fixed image", "Jacobian determinant"):
                assert f"{name}, {view}" in told
            assert {f"local residual before, {view}", f"local residual after, {view}"} <= set(told)
        for name in ("fixed image", "moving image before", "warped moving image"):
            assert f"all slices: {name}" in told
        assert len([t for t in told if t.startswith("basis functions")]) == 2
        assert "ab12" in read.text and "torch" in read.text and "bending weight" in read.text.replace("_", " ")

    def test_what_the_numbers_mean_stands_beside_them(self, page, judged):
        text = Reader(page).text
        assert {reason.check for reason in judged.verdict.reasons} <= CHECKS.keys()
        assert all(CHECKS[reason.check] in text for reason in judged.verdict.reasons)
        assert all(meaning in text for meaning in NUMBERS.values())

    @pytest.mark.slow
    def test_warnings_of_the_run(self, tmp_path):
        told = ("a mask lies elsewhere", EVIL)
        page = write_report(tmp_path / "a.html", result_of(GRID_2D, warnings=told, doubts=told[:1])).read_text(encoding="utf-8")
        text = Reader(page).text
        assert all(warning in text for warning in told) and EVIL not in page
        assert "Check the result before use" in text or "Do not use the result" in text
        assert "Warnings of the run" not in self.of_flat(tmp_path)

    def of_flat(self, folder) -> str:
        return write_report(folder / "b.html", result_of(GRID_2D), residuals=False).read_text(encoding="utf-8")

    @pytest.mark.slow
    @pytest.mark.parametrize("grid", [GRID, GRID_2D], ids=["3-D", "2-D"])
    def test_masks_are_outlined(self, grid, tmp_path):
        mask = torch.zeros(grid.shape)
        mask[tuple(slice(6, -6) for _ in grid.shape)] = 1
        masks = {"fixed_mask": image(mask.numpy(), grid), "moving_mask": image(mask.numpy(), grid)}
        for given in ({}, dict(list(masks.items())[:1]), masks):
            page = write_report(tmp_path / "a.html", result_of(grid), residuals=False, **given).read_text(encoding="utf-8")
            read = Reader(page)
            for name in masks:
                drawn = read.all("path", **{"class": name})
                assert len(drawn) == (name in given) * (3 if grid.dims == 3 else 1) and all(p["d"] for p in drawn)
            stacks = {a["data-name"] for a in read.all("img", **{"class": "stack"})}
            assert stacks == {"fixed", "before", "after", *given}

    def test_pictures_can_be_read(self, page):
        from PIL import Image

        for attributes in Reader(page).all("img"):
            picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1])))
            picture.load()
            assert min(picture.size) > 10
        assert len(page) < 2e6

    def test_two_dimensions(self, tmp_path):
        read = Reader(write_report(tmp_path / "a.html", result_of(GRID_2D)).read_text(encoding="utf-8"))
        assert "Jacobian determinant, image" in [a["alt"] for a in read.all("img")]
        assert not read.all("input", **{"class": "slice"})
        assert read.all("span", **{"class": "letter l"}) == []

    def test_residuals_that_cannot_be_mapped_say_why(self, tmp_path):
        page = write_report(tmp_path / "a.html", result_of(GRID_2D, channels=1)).read_text(encoding="utf-8")
        assert "Not available: " in page and "in_channels 1" in page

    def test_without_basis_residuals_and_history(self, tmp_path):
        result = result_with(*aligned(GRID_2D), history=[])
        read = Reader(write_report(tmp_path / "a.html", result, title="mine", residuals=False).read_text(encoding="utf-8"))
        assert {"basis", "residual", "optimization"}.isdisjoint({a.get("id") for a in read.all("section")})
        assert "mine" in read.text

    def test_of_several_channels_the_first_is_shown(self, tmp_path):
        fixed, moving = aligned(GRID_2D)
        files = {"list": [{"path": f"/a/{name}.nii", "sha256": name} for name in ("t1", "t2")]}
        result = result_with(fixed, moving, arguments={"fixed": files, "moving": {"path": "/a/m.nii"}})
        page = write_report(tmp_path / "a.html", result, [fixed, 2 * fixed], moving, residuals=False).read_text(
            encoding="utf-8"
        )
        text = Reader(page).text
        assert "the first of 2 fixed images is shown" in text and "moving images is shown" not in text
        assert "/a/t1.nii" in text and "/a/t2.nii" in text and "fixed 2" in text
        alone = write_report(tmp_path / "b.html", result, fixed, moving, residuals=False).read_text(encoding="utf-8")
        assert alone == page
        assert judge(result, (fixed, 2 * fixed), [moving, moving]) == judge(result, fixed, moving)

    def test_images_that_are_missing_or_do_not_fit(self, tmp_path):
        fixed, moving = aligned(GRID_2D)
        bare = result_with(fixed, moving, fixed_image=None, moving_image=None)
        with pytest.raises(InputError, match="does not hold its images"):
            write_report(tmp_path / "a.html", bare)
        with pytest.raises(InputError, match="fixed image"):
            write_report(tmp_path / "a.html", bare, fixed[:, :-1], moving)
        assert list(tmp_path.iterdir()) == []
        assert write_report(tmp_path / "a.html", bare, fixed, moving, residuals=False).is_file()


class TestPictures:
    def test_views_go_through_the_middle_and_keep_their_aspect(self):
        grid = Grid((20, 30, 8), np.diag([2.0, 1.0, 5.0, 1.0]))
        views = views_of(grid, (7, 20, 3))
        assert [v.plane.index for v in views] == [3, 20, 7]
        for view, extent in zip(views, ((40, 30), (40, 40), (30, 40)), strict=True):
            assert view.size[0] * view.pixel == pytest.approx(extent[0], abs=view.pixel)
            assert view.size[1] * view.pixel == pytest.approx(extent[1], abs=view.pixel)

    def test_pictures_are_the_cuts_and_large_ones_are_made_small(self):
        grid = Grid((600, 40, 30), np.eye(4))
        volume = np.random.default_rng(0).random(grid.shape, np.float32)
        axial, _, sagittal = views_of(grid, (300, 20, 15))
        np.testing.assert_allclose(sagittal.picture(volume), sagittal.plane.cut(volume))
        assert axial.picture(volume).shape == (27, 400)

    def test_contours_surround_what_is_bright(self):
        grid = Grid((40, 50), np.eye(3))
        volume = np.zeros(grid.shape, np.float32)
        volume[10:30, 20:40] = np.linspace(0.8, 1, 20)
        (view,) = views_of(grid, (20, 25))
        start = view.contours(volume).split("l")[0].removeprefix("M").split()
        x, y = float(start[0]), float(start[1])  # mirrored across, upside down, in pixels
        assert min(abs(x - 10), abs(x - 30), abs(y - 10), abs(y - 30)) < 1

    def test_an_undeformed_grid_is_straight_and_fills_the_picture(self):
        straight = GRID_2D.reordered(*GRID_2D.canonical_order())
        (view,) = views_of(straight, (48, 45))
        for path in view.grid_lines(torch.zeros(2, *straight.shape), straight):
            steps = np.array([float(v) for v in path.split("l")[1].split()]).reshape(-1, 2)
            assert (np.abs(steps).min(0) < 1e-6).any() and np.abs(steps.sum(0)).max() > 75

    def test_charts_have_gaps_marks_and_folds(self):
        line = curve([1.0, None, 0.5, 0.25], 'a "loss"')
        assert line.count("M") >= 2 and "&quot;" in line and "nan" not in line
        assert "nan" not in curve([], "") and "nan" not in curve([None], "") and "nan" not in curve([2.0], "")
        assert histogram(np.array([-0.5, 0.5, 1, 1]), -1, 2, "").count('class="bad"') == 1


class TestNotebook:
    @pytest.mark.slow
    def test_it_shows_verdict_and_picture(self, judged):
        shown = judged._repr_html_()
        assert judged.verdict.status in shown and "data:image/png" in shown and EVIL not in shown
        assert html.escape(EVIL) in shown and "interrupted" in shown

    def test_without_matplotlib_it_shows_words(self, judged, monkeypatch, tmp_path):
        block(monkeypatch, "matplotlib")
        shown = judged._repr_html_()
        assert judged.verdict.status in shown and "data:image" not in shown and "monai-locor[plot]" in shown
        with pytest.raises(ImportError, match=r"monai-locor\[plot\]"):
            write_report(tmp_path / "a.html", judged)
        with pytest.raises(ImportError, match=r"monai-locor\[plot\]"):
            judged.plot()

    @pytest.mark.slow
    def test_plot_is_a_figure_titled_by_the_verdict(self, judged):
        figure = judged.plot()
        assert len(figure.axes) == 18 and judged.verdict.status in figure.get_suptitle()
        assert judged.plot("other").get_suptitle() == "other"

    def test_without_images(self, judged):
        bare = dataclasses.replace(judged, fixed_image=None, moving_image=None)
        assert judged.verdict.status in bare._repr_html_() and "no figure" in bare._repr_html_()
        with pytest.raises(InputError, match="does not hold the fixed image"):
            bare.plot()

    def test_the_viewer_names_its_extra(self, judged, monkeypatch):
        block(monkeypatch, "ipyniivue")
        with pytest.raises(ImportError, match=r"monai-locor\[notebook\]"):
            judged.view()

    def test_the_viewer_gets_both_images_in_place(self, judged, monkeypatch):
        import nibabel as nib

        fake = types.ModuleType("ipyniivue")
        fake.Volume = lambda **options: options
        fake.NiiVue = type(
            "NiiVue", (), {"__init__": lambda self, height: None, "load_volumes": lambda s, v: setattr(s, "v", v)}
        )
        monkeypatch.setitem(sys.modules, "ipyniivue", fake)
        volumes = judged.view().v
        for volume, expected in zip(volumes, (judged.fixed_image, judged.warped_moving), strict=True):
            read = nib.nifti1.Nifti1Image.from_bytes(volume["data"])
            np.testing.assert_array_equal(read.get_fdata(dtype=np.float32), expected[0].numpy())
            np.testing.assert_allclose(read.affine, GRID.affine)
        with pytest.raises(InputError, match="3-D"):
            result_with(*aligned(GRID_2D)).view()


class Widget:
    """What ipyniivue's is asked."""

    def __init__(self, height: int) -> None:
        self.v: list = []

    def load_volumes(self, volumes: list) -> None:
        self.v = volumes


def block(monkeypatch, name: str) -> None:
    real = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted.split(".")[0] == name:
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_missing_tissue_has_a_section(tmp_path):
    images, volumes = aligned(), {"fixed": 1.5, "moving": 2.0}
    plain = result_with(*images)
    found = dataclasses.replace(plain, missing_fixed=torch.rand(1, *GRID.shape), missing_ml=volumes)
    pages = [write_report(tmp_path / "r.html", r, *images, residuals=False).read_text(encoding="utf-8") for r in (plain, found)]
    assert ['id="missing"' in page for page in pages] == [False, True]
    assert "1.5 ml of the fixed image" in pages[1]
