# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Points in files, and which way a transform takes them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import PointList, read_points, write_points, write_transform

from .transform_cases import GRIDS, SOLID, inner_points, some_transform

POINTS = PointList(torch.tensor([[1.5, -2.25, 3.123456789012345], [-40.0, 5.0, 6.0]]), ("apex, left", "ä"))


@pytest.mark.parametrize("name", ["p.csv", "p.fcsv", "p.json", "p.mrk.json"])
def test_points_come_back(tmp_path, name):
    write_points(tmp_path / name, POINTS)
    back = read_points(tmp_path / name)
    assert torch.equal(back.points, POINTS.points) and back.labels == POINTS.labels and len(back) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_csv_of_ants(tmp_path, caplog):
    write_points(tmp_path / "p.csv", POINTS, lps=True)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "x,y,z,t,label" and lines[2] == "40.0,-5.0,6.0,0,2"
    back = read_points(tmp_path / "p.csv", lps=True)
    assert torch.equal(back.points, POINTS.points) and back.labels == ("1", "2") and not caplog.text
    with caplog.at_level(logging.WARNING):
        assert read_points(tmp_path / "p.csv").points[1].tolist() == [40, -5, 6]
    assert "ANTs' points are LPS" in caplog.text
    write_points(tmp_path / "p.csv", PointList(POINTS.points[:, :2], ("7", "-3")), lps=True)
    assert (tmp_path / "p.csv").read_text().splitlines()[2] == "40.0,-5.0,0,0,-3"


def test_two_dimensions_and_no_labels(tmp_path):
    flat = PointList(torch.tensor([[1.0, 2.0]]))
    write_points(tmp_path / "p.csv", flat)
    assert (tmp_path / "p.csv").read_text() == "x,y\n1.0,2.0\n"
    assert read_points(tmp_path / "p.csv").points.tolist() == [[1, 2]] and read_points(tmp_path / "p.csv").labels == ("",)
    for name in ("p.fcsv", "p.mrk.json"):
        with pytest.raises(InputError, match="three dimensions"):
            write_points(tmp_path / name, flat)


def test_examples_of_slicer_s_documentation(tmp_path):
    (tmp_path / "a.fcsv").write_text(
        "# Markups fiducial file version = 4.13\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "0,-19.9,13.9347,29.5,0,0,0,1,1,1,0,F-1,,\n1,-7.3939,-76.5,17.5,0,0,0,1,1,1,0,F-2,,,2,0\n"
    )
    read = read_points(tmp_path / "a.fcsv")
    assert read.points.tolist() == [[19.9, -13.9347, 29.5], [7.3939, 76.5, 17.5]] and read.labels == ("F-1", "F-2")
    text = (tmp_path / "a.fcsv").read_text()
    for system in ("RAS", "0"):
        (tmp_path / "a.fcsv").write_text(text.replace("LPS", system))
        assert read_points(tmp_path / "a.fcsv").points[0].tolist() == [-19.9, 13.9347, 29.5]
    point = {"label": "F-1", "position": [-53.5, -73.25, 1.0]}
    for system, expected in (("LPS", [53.5, 73.25, 1.0]), ("RAS", [-53.5, -73.25, 1.0])):
        missing = {"label": "F-2", "position": None, "positionStatus": "undefined"}
        group = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": [point, missing]}
        (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": [group]}))
        read = read_points(tmp_path / "a.mrk.json")
        assert read.points.tolist() == [expected] and read.labels == ("F-1",)


def test_what_slicer_reads_of_ours(tmp_path):
    write_points(tmp_path / "p.mrk.json", POINTS)
    node = json.loads((tmp_path / "p.mrk.json").read_text())["markups"][0]
    assert node["type"] == "Fiducial" and node["coordinateSystem"] == "LPS"
    assert [p["position"] for p in node["controlPoints"]] == [[-1.5, 2.25, POINTS.points[0, 2].item()], [40, -5, 6]]
    write_points(tmp_path / "p.fcsv", PointList(POINTS.points))
    lines = (tmp_path / "p.fcsv").read_text().splitlines()
    assert "LPS" in lines[1] and lines[4].startswith("2,40.0,-5.0,6.0,") and lines[4].split(",")[11] == "P-2"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", "x,y,z\n1,2\n", "line 2: is '1,2'"),
        ("p.csv", "a,b\n1,2\n", "the header x,y,z"),
        ("p.fcsv", "# CoordinateSystem = LPS\n", "holds no points"),
        ("p.fcsv", "# CoordinateSystem = IJK\n1,2,3,4\n", "'IJK'"),
        ("p.fcsv", "1,2,3,here\n", "line 1: is '1,2,3,here'"),
        ("p.json", "{", "not a list of Slicer markups"),
        ("p.json", "[]", "not a list of Slicer markups"),
        ("p.json", '{"markups": [{"controlPoints": [3]}]}', "not a list of Slicer markups"),
        ("p.json", '{"markups": [{"controlPoints": []}]}', "no points that are placed"),
        ("p.json", '{"markups": [{"controlPoints": [{"position": [1, 2]}]}]}', "point 1: is"),
        ("p.json", '{"markups": [{"controlPoints": [{"position": [1, 2, NaN]}]}]}', "finite"),
        ("p.json", "[" * 100000, "not a list of Slicer markups"),
    ],
)
def test_refusals(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_points(tmp_path / name)
    assert words in str(caught.value) and str(caught.value).startswith(f"points {tmp_path / name}")
    assert "\n" not in str(caught.value)


def test_points_that_cannot_be_made_or_written(tmp_path):
    for points, labels in ((torch.zeros(3), ()), (torch.zeros(2, 4), ()), (torch.zeros(2, 3), ("one",))):
        with pytest.raises(ValueError, match="points"):
            PointList(points, labels)
    with pytest.raises(InputError, match=r"p\.txt: points are written as"):
        write_points(tmp_path / "p.txt", POINTS)
    with pytest.raises(ValueError, match="finite"):
        write_points(tmp_path / "p.csv", PointList(torch.full((1, 3), torch.nan)))
    with pytest.raises(InputError, match="cannot be written"):
        write_points(tmp_path / "none" / "p.csv", POINTS)
    assert list(tmp_path.iterdir()) == []


def center_of(image: torch.Tensor, grid: Grid) -> np.ndarray:
    """Where the brightness of an image lies, RAS mm."""
    weights = image[0].double().numpy()
    return (grid.points() * weights[..., None]).sum((0, 1, 2)) / weights.sum()


def test_points_go_the_opposite_way_to_images():
    """A blob in the moving image is seen, in the warped one, where the inverse takes its center."""
    grid = Grid((40, 42, 38), np.diag([1.5, -1.5, 1.5, 1.0]))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    turn[:3, 3] = 6.0, -4.0, 5.0
    transform = SpatialTransform.of_affine(turn)
    place = np.array([30.0, -32.0, 25.0])
    blob = torch.from_numpy(np.exp(-((grid.points() - place) ** 2).sum(-1) / 30))[None]
    seen = center_of(transform.warp(blob, grid, grid).as_tensor(), grid)
    np.testing.assert_allclose(seen, transform.inverse().points(place[None])[0], atol=0.05)
    np.testing.assert_allclose(transform.points(seen[None])[0], place, atol=0.05)
    back = center_of(transform.inverse().warp(blob, grid, grid).as_tensor(), grid)
    np.testing.assert_allclose(back, transform.points(place[None])[0], atol=0.05)


@pytest.mark.parametrize("case", SOLID)
def test_ants_moves_points_as_we_do(tmp_path, case):
    """The same list of files brings images from moving to fixed and points from fixed to moving."""
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    fixed, _ = GRIDS[case]
    ours = some_transform(fixed)
    affine, warp, inverse = write_transform(tmp_path / "out_", ours, format="ants")
    points = PointList(torch.from_numpy(inner_points(fixed)))
    write_points(tmp_path / "p.csv", points, lps=True)
    table = pandas.read_csv(tmp_path / "p.csv")
    ants.apply_transforms_to_points(3, table, [str(warp), str(affine)]).to_csv(tmp_path / "moved.csv", index=False)
    moved = read_points(tmp_path / "moved.csv", lps=True)
    torch.testing.assert_close(moved.points, ours.points(points.points), atol=1e-3, rtol=0)
    write_points(tmp_path / "q.csv", moved, lps=True)
    options = {"whichtoinvert": [True, False]}
    back = ants.apply_transforms_to_points(3, pandas.read_csv(tmp_path / "q.csv"), [str(affine), str(inverse)], **options)
    back.to_csv(tmp_path / "back.csv", index=False)
    np.testing.assert_allclose(read_points(tmp_path / "back.csv", lps=True).points, points.points, atol=0.1)
    assert np.linalg.norm(moved.points - points.points, axis=1).mean() > 1


@pytest.mark.parametrize("label", ["²", "--5", "-", "1.5"])
def test_labels_that_are_no_integers_are_numbered_in_the_csv_of_ants(tmp_path, label):
    write_points(tmp_path / "p.csv", PointList(torch.zeros(2, 3), ("-7", label)), lps=True)
    assert read_points(tmp_path / "p.csv", lps=True).labels == ("1", "2")
