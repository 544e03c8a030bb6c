# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sections of the report: transform, local residual, basis functions, loss curves."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ...quality import Verdict
from ..pictures.basis import basis_picture
from ..pictures.figures import BACKGROUND
from ..pictures.planes import upright
from .charts import curve, histogram
from .explanations import NUMBERS
from .images import View, colors, data_uri
from .report_images import ReportImages
from .stills import contour_shapes
from .tables import explained, section

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["basis_section", "missing_section", "optimization_section", "residual_section", "transform_section"]

MIN_LOG2_RANGE = math.log2(1.25)  # the colors of the determinant span at least this range, so that a rigid map looks calm
MIN_RESIDUAL = 1e-6  # lower residuals get the same color


def transform_section(images: ReportImages, verdict: Verdict) -> str:
    """The section with the deformed grid and the Jacobian determinant as maps, histogram and numbers."""
    result, determinant = images.result, images.determinant
    logs = np.log2(np.clip(determinant, 1e-3, 1e3))
    reach = max(MIN_LOG2_RANGE, *(abs(float(q)) for q in np.quantile(logs[:: max(1, logs.shape[0] // 64)], (0.01, 0.99))))
    grids, maps = [], []
    for view in images.views:
        lines = "".join(f'<path d="{d}"/>' for d in view.grid_lines(images.field, images.grid))
        name = f'role="img" aria-label="deformed grid, {view.name}"'
        grids.append(_figure(view, "lines", f"<svg {_box(view)} {name}>{lines}</svg>", view.name))
        picture = colors(view.picture(logs), -reach, reach, "RdBu_r")
        folded = view.picture((determinant <= 0).astype(np.float32)) > 0.2
        picture[folded] = (1.0, 0.85, 0.0)
        maps.append(_figure(view, "", _image(view, picture, f"Jacobian determinant, {view.name}"), view.name))
    bar = _scale(f"{2**-reach:.2f} contraction", f"{2**reach:.2f} expansion", "RdBu_r")
    highest = float(max(2.0, min(result.jacobian["max"] * 1.02, 2 * result.jacobian["p99"])))
    lowest = min(0.0, max(-1.0, result.jacobian["min"]))
    bars = histogram(determinant, lowest, highest, "histogram of the Jacobian determinant")
    grid_note = "A regular grid of the fixed image, deformed, without the mean shift. Lines should be smooth and never cross."
    jacobian_note = (
        "Local change of volume from the fixed to the moving image: white is unchanged, red expansion, blue contraction, "
        "yellow folding."
    )
    return (
        f'{contour_shapes(images)}<h3>Deformed grid</h3><p class="note">{grid_note}</p><div class="maps">{"".join(grids)}</div>'
        f'<h3>Jacobian determinant</h3><p class="note">{jacobian_note}</p><div class="maps">{"".join(maps)}</div>{bar}'
        f'<div class="pair"><figure>{bars}<figcaption>share of voxels by determinant; folding at 0 and below'
        f"</figcaption></figure>{explained(_numbers(result, verdict), NUMBERS)}</div>"
    )


def residual_section(images: ReportImages) -> str:
    """The section with maps of the local residual before and after."""
    if images.residuals is None:
        return ""
    if isinstance(images.residuals, str):
        return section("residual", "Local residual", f"<p>Not available: {escape(images.residuals)}</p>")
    before, after = (np.log10(np.maximum(r, MIN_RESIDUAL)) for r in images.residuals)
    both = np.concatenate([r[np.isfinite(r)][::17] for r in (before, after)])
    low, high = (float(q) for q in np.quantile(both, (0.02, 0.99))) if both.size else (-6.0, 0.0)
    rows = []
    for name, values in (("before", before), ("after", after)):
        for view in images.views:
            picture = colors(view.picture(values), low, high, "inferno")
            image = _image(view, picture, f"local residual {name}, {view.name}")
            rows.append(_figure(view, "dark", image, f"{view.name}, {name}"))
    means = [10 ** float(np.nanmean(r)) if np.isfinite(r).any() else math.nan for r in (before, after)]
    kind = "the learned basis" if images.result.basis is not None else "polynomials"
    text = (
        f"Residual of the local fit of the fixed image by functions of the moving one ({kind}), on a logarithmic scale; dark "
        f"is a good fit. Geometric mean {means[0]:.2g} before, {means[1]:.2g} after."
    )
    bar = _scale(f"{10**low:.1g}", f"{10**high:.1g}", "inferno")
    return section("residual", "Local residual", f'<p>{text}</p><div class="maps">{"".join(rows)}</div>{bar}')


def missing_section(images: ReportImages) -> str:
    """The section with the map of missing tissue, if it was looked for."""
    result = images.result
    if result.missing_fixed is None:
        return ""
    probability = upright(result.missing_fixed, result.fixed_grid)[0][0]
    maps = []
    for view in images.views:
        image = _image(view, colors(view.picture(probability), 0, 1, "inferno"), f"missing tissue, {view.name}")
        maps.append(_figure(view, "dark", image, view.name))
    volumes = result.missing_ml or {}
    found = ", ".join(f"{ml:.1f} ml of the {role} image" for role, ml in volumes.items()) or "not measured"
    used = "These places were left out of the last stages." if result.config.missing == "auto" else "All voxels were used."
    text = (
        "Probability that the moving image does not show the tissue of a voxel of the fixed image, for instance at a "
        f"resection, a lesion or metal. Found without a counterpart: {found}. {used}"
    )
    return section(
        "missing", "Missing tissue", f'<p>{text}</p><div class="maps">{"".join(maps)}</div>{_scale("0", "1", "inferno")}'
    )


def basis_section(result: RegistrationResult) -> str:
    """The section with the learned basis functions of both directions."""
    from ...networks import LearnedBasis

    bases = result.basis
    if bases is None:
        return ""
    tiles = []
    for direction, what in (
        ("forward", "of the moving image, fitted to the fixed one"),
        ("inverse", "of the fixed image, fitted to the moving one"),
    ):
        network = LearnedBasis(bases.in_channels, bases.num_basis, bases.hidden_channels)
        network.load_state_dict(dict(getattr(bases, direction)))
        tiles.append(
            f'<figure class="tile"><div class="scroll"><img alt="basis functions {what}" src="{_drawn(network)}"></div>'
            f"<figcaption>functions {what}</figcaption></figure>"
        )
    text = "<p>Functions learned together with the transform; their local linear combinations relate the two images.</p>"
    return section("basis", "Learned basis functions", text + "".join(tiles))


def optimization_section(result: RegistrationResult) -> str:
    """The section with charts of the loss, one per stage; empty if no optimization is known."""
    figures = []
    for number, stage in enumerate(result.history, 1):
        spacing = "affine" if stage["spacing"] is None else f"control points every {stage['spacing']:g} voxels"
        name = f"stage {number}: {spacing}, samples every {stage['factor']:g}, {stage['seconds']:.1f} s"
        figures.append(f"<figure>{curve(stage['loss'], name)}<figcaption>{escape(name)}</figcaption></figure>")
    if not figures:
        return ""
    text = (
        "Similarity loss of every step, one chart per stage. Stages differ in resolution: compare values within a stage only."
    )
    return section("optimization", "Optimization", f'<p>{text}</p><div class="charts">{"".join(figures)}</div>')


def _image(view: View, picture: np.ndarray, name: str) -> str:
    outline = f'<use class="contour" href="#contour-{view.name}"/>'
    return f'<img alt="{escape(name)}" src="{data_uri(picture)}"><svg {_box(view)} aria-hidden="true">{outline}</svg>'


def _numbers(result: RegistrationResult, verdict: Verdict) -> dict[str, str]:
    """Numbers of the transform."""
    j, m = result.jacobian, verdict.measures
    inverse = m.get("inverse_mm")
    return {
        "determinant": f"{j['min']:.3f} to {j['max']:.3f}, median {j['p50']:.3f}",
        "98 % of the voxels": f"{j['p01']:.3f} to {j['p99']:.3f}",
        "standard deviation of its logarithm": f"{j['std_log']:.3f}",
        "folding": f"{j['folding_voxels']} voxels ({j['folding_percent']:.2g} %)",
        "non-diffeomorphic volume": "not measured" if j["ndv"] is None else f"{j['ndv']:.2g} %",
        "inverse consistency, 95 %": "not measured" if inverse is None else f"{inverse:.3g} mm",
        "affine part": f"stretch {m['stretch']:.3f}, shear {m['shear_degrees']:.1f}°, "
        f"determinant {m['affine_determinant']:.3f}",
    }


def _drawn(network: Any) -> str:
    buffer = io.BytesIO()
    figure = basis_picture(network)
    figure.canvas.print_figure(buffer, format="png", dpi=110, facecolor=BACKGROUND)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _box(view: View) -> str:
    return f'viewBox="0 0 {view.size[0]} {view.size[1]}"'


def _figure(view: View, kind: str, content: str, caption: str) -> str:
    style = f"--w:{view.size[0]};--h:{view.size[1]}"
    return f'<figure><div class="map {kind}" style="{style}">{content}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _scale(low: str, high: str, name: str) -> str:
    """A color bar."""
    stops = colors(np.linspace(0, 1, 9), 0, 1, name)
    shades = ",".join("#" + "".join(f"{round(255 * c):02x}" for c in stop) for stop in stops)
    bar = f'<i style="background:linear-gradient(90deg,{shades})"></i>'
    return f'<div class="scale"><span>{low}</span>{bar}<span>{high}</span></div>'
