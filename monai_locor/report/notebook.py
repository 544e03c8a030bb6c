# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Display of a result in a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import nibabel as nib
import torch

from ..errors import InputError
from ..tensors import plain
from .pictures.before_after import before_after_figure
from .pictures.figures import BACKGROUND

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..registration.result import RegistrationResult

__all__ = ["result_figure", "result_html", "result_viewer"]

STATUS_COLORS = {"PASS": "#1a7f4b", "WARN": "#a96500", "FAIL": "#c0322b", "": "#5a636e"}
PREVIEW_DPI = 55  # of the figure below the verdict


def result_figure(result: RegistrationResult, title: str | None = None) -> Figure:
    """:func:`.before_after_figure` of a result; see :meth:`monai_locor.RegistrationResult.plot`."""
    fixed, before, after = result.held("fixed_image"), result.moving_before(), result.held("warped_moving")
    title = str(result.verdict or "") if title is None else title
    return before_after_figure(fixed, before, after, title, result.forward_mm)


def result_html(result: RegistrationResult) -> str:
    """Verdict, reasons and a small figure; text only without matplotlib."""
    status = "" if result.verdict is None else result.verdict.status
    reasons = [] if result.verdict is None else [r for r in result.verdict.reasons if r.status in ("WARN", "FAIL")]
    items = "".join(
        f'<li><b style="color:{STATUS_COLORS[r.status]}">{escape(r.check)}</b>: {escape(r.text)}'
        f"{f' <i>→ {escape(r.advice)}</i>' if r.advice else ''}</li>"
        for r in reasons
    )
    names = " to ".join(escape(result.inputs[role]) for role in ("moving", "fixed") if role in result.inputs)
    badge = (
        f'<span style="background:{STATUS_COLORS[status]};color:#fff;border-radius:1em;padding:.15em .9em;font-weight:600">'
        f"{escape(status or 'no verdict')}</span>"
    )
    shape = "×".join(map(str, result.fixed_grid.shape))
    remarks = "".join(f", {remark}" for remark in result.remarks)
    facts = f"{names or 'registration'}, {shape} voxels, {result.seconds:.1f} s on {escape(result.device)}{remarks}"
    reasons_list = f'<ul style="margin:.5em 0">{items}</ul>'
    return f'<div>{badge} <span style="opacity:.75">{facts}</span>{reasons_list}{_picture(result)}</div>'


def _picture(result: RegistrationResult) -> str:
    try:
        figure = result_figure(result, "")
    except (ImportError, InputError) as error:
        return f'<p style="opacity:.75">no figure: {escape(str(error))}</p>'
    buffer = io.BytesIO()
    figure.canvas.print_figure(buffer, format="png", dpi=PREVIEW_DPI, facecolor=BACKGROUND)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="before and after" style="max-width:100%;border-radius:6px" src="data:image/png;base64,{data}">'


def result_viewer(result: RegistrationResult, height: int = 400) -> Any:
    """An ipyniivue widget; see :meth:`monai_locor.RegistrationResult.view`."""
    try:
        from ipyniivue import NiiVue, Volume
    except ImportError as error:
        raise ImportError("the viewer needs ipyniivue: pip install 'monai-locor[notebook]'") from error
    fixed, warped = result.held("fixed_image"), result.held("warped_moving")
    if result.fixed_grid.dims != 3:
        raise InputError("the viewer shows 3-D images only; use plot() for 2-D images.")
    widget = NiiVue(height=height)
    volumes = (("fixed", fixed, "gray", 1.0), ("warped", warped, "warm", 0.5))
    widget.load_volumes(
        [
            Volume(data=_nifti(image, result), name=f"{name}.nii", colormap=colors, opacity=opacity)
            for name, image, colors, opacity in volumes
        ]
    )
    return widget


def _nifti(image: torch.Tensor, result: RegistrationResult) -> bytes:
    values = plain(image)[0].detach().cpu().float().numpy()
    return nib.nifti1.Nifti1Image(values, result.fixed_grid.affine).to_bytes()
