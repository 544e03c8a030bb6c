# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Templates of many subjects and of the visits of one subject."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..cohort.api import requested
from ..cohort.folder import CohortFolder
from ..cohort.machine import Machine
from ..cohort.pairs import check_files
from ..cohort.scheduling import check_dask, connected
from ..errors import InputError
from ..io.paths import check_output_dir, expanded, write_json
from ..registration import RegistrationConfig
from ..registration.numbers import POSITIVE_OR_NONE
from .folder import TEMPLATE_FORMAT, TEMPLATE_RECORD, check_set_folder, image_name
from .results import Template
from .rounds import Rounds, Space
from .subjects import FILES, Subject, checked_subjects, named_visits, reference_contrast

if TYPE_CHECKING:
    pass

__all__ = ["check_rounds", "check_set", "described", "longitudinal", "prepared", "running", "template"]

KEPT = ("shift_mm", "gains", "average_seconds", "excluded")  # of a round, in the result
RIGID_KINDS = ("rigid", "similarity", "affine")
Preset = RegistrationConfig | Mapping[str, Any] | str | PathLike[str]


def template(
    subjects: Sequence[Subject | Mapping[str, Any]],
    output: str | PathLike[str],
    *,
    rounds: int = 3,
    reference: str | None = None,
    voxel_size: float | None = None,
    sharpen: bool = True,
    preset: Preset = "default",
    outputs: Iterable[str] | None = None,
    **options: Any,
) -> Template:
    """Build an unbiased template of images of one or several contrasts, and register all images to it.

    First, all images are registered to one of them without a deformation, and their mean is moved to their mean pose. In each
    round, all images are registered to the template, averaged, and the template is moved to the mean pose and shape: by the
    inverse of the mean affine map and of the exponential of the mean velocity. At the end, all images are registered to the
    last template. The order of ``subjects`` has no effect.

    With several contrasts, all images are registered to the template of the reference contrast, and the images of each contrast
    are averaged to a template of their own in the same space.

    Run the same call again after an interruption: finished registrations are skipped. Images whose registration fails, or has
    the verdict FAIL, do not contribute to the next template. The registrations run on Dask, see
    :func:`monai_locor.cohort.run_cohort`; a script needs the guard ``if __name__ == "__main__":``.

    Args:
        subjects: at least two images, see :class:`.subjects.Subject` and :func:`.subjects.read_subjects`.
        output: output folder. It receives ``template.nii.gz`` (other contrasts: ``template_CONTRAST.nii.gz``),
            ``template.json``, the final registrations as :func:`monai_locor.cohort.run_cohort` writes them (``pairs/ID``,
            ``summary.csv``, ``summary.html``), and the rounds in ``rounds/N``.
        rounds: number of rounds before the final registrations.
        reference: contrast that all images are registered to; by default the most frequent one, then the first by name.
        voxel_size: of the template, mm; by default the median over the images of the geometric mean of their voxel sides.
        sharpen: give the template the mean gradient energy of the images by an unsharp mask.
        preset: settings, see :func:`monai_locor.register`. ``transform`` other than ``"deformable"`` gives the mean pose only.
        outputs: outputs of the final registrations, see ``monai-locor register --help``.
        options: ``seed``, ``thresholds``, ``device``, ``scheduler``, ``workers``, ``threads``, ``timeout``, ``force`` and
            ``progress``, see :func:`monai_locor.cohort.run_cohort`.

    Raises:
        InputError: if an image, a setting or the output folder cannot be used, or if most registrations of a round fail.
        ImportError: if ``dask.distributed`` is not installed; the message names the extra.
    """
    listed, config = prepared(subjects, rounds, preset)
    about = {
        "reference": reference_contrast(listed, reference),
        "voxel_size": voxel_size,
        "sharpen": sharpen,
        "start": "affine",
    }
    return _build(listed, output, config, about, rounds, outputs, options)


def longitudinal(
    visits: Sequence[Subject | Mapping[str, Any] | str | PathLike[str]],
    output: str | PathLike[str],
    *,
    rounds: int = 2,
    reference: str | None = None,
    voxel_size: float | None = None,
    sharpen: bool = True,
    preset: Preset = "default",
    outputs: Iterable[str] | None = None,
    **options: Any,
) -> Template:
    """Build the midpoint of two or more visits of one subject, and register all visits to it.

    Like :func:`template`, but with a rigid start: the first template is in the mean of the rigid poses, for two visits halfway
    between them. No visit is favored: each is interpolated once, and the result does not depend on the order of the visits.
    With deformations, ``jacobian.nii.gz`` of each visit is its volume relative to the midpoint, and the ratio of two visits is
    the change between them.

    Args:
        visits: image files, or subjects as for :func:`template`. Visits without ids are named by their files, and by their
            folders if the names of the files are equal.
        output: output folder, see :func:`template`.
        rounds, reference, voxel_size, sharpen, preset, options: see :func:`template`.
        outputs: outputs of the final registrations; by default those of ``register`` and, with deformations, ``jacobian``.

    Raises:
        InputError: see :func:`template`.
        ImportError: see :func:`template`.
    """
    listed, config = prepared(named_visits(visits), rounds, preset)
    if outputs is None and config.transform == "deformable":
        outputs = [*requested(config, None, 0, None)["outputs"], "jacobian"]
    about = {"reference": reference_contrast(listed, reference), "voxel_size": voxel_size, "sharpen": sharpen, "start": "rigid"}
    return _build(listed, output, config, about, rounds, outputs, options)


def _build(
    listed: Sequence[Subject],
    output: str | PathLike[str],
    config: RegistrationConfig,
    about: dict[str, Any],
    rounds: int,
    outputs: Iterable[str] | None,
    options: Mapping[str, Any],
) -> Template:
    """Build a template; settings of fewer degrees of freedom than the start in ``about`` replace it."""
    POSITIVE_OR_NONE.check("voxel_size", about["voxel_size"])
    start = config.transform if config.transform in RIGID_KINDS else about["start"]
    check_set(listed, options.get("progress", True))
    names = [subject.id for subject in listed]
    files = [image_name(contrast, about["reference"]) for contrast in sorted({subject.contrast for subject in listed})]
    with running(output, names, files, rounds, config, outputs, options) as (root, of_cohort):
        return _built(Rounds(root, listed, config=config, options=of_cohort, **{**about, "start": start}), rounds, outputs)


def prepared(
    subjects: Sequence[Subject | Mapping[str, Any]], rounds: int, preset: Preset
) -> tuple[list[Subject], RegistrationConfig]:
    """The images in the order of their ids, and the settings.

    Raises:
        InputError: for lists and settings that cannot be used.
    """
    config = RegistrationConfig.of(preset)
    check_rounds(rounds, config)
    return checked_subjects(subjects), config


def check_rounds(rounds: int, config: RegistrationConfig) -> None:
    """Check the number of rounds and whether the settings give a velocity.

    Raises:
        InputError: if not.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"rounds must be an integer, 1 or more, got {rounds!r}")
    if config.transform == "deformable" and config.composition != "single":
        raise InputError(
            f"composition {config.composition}: a template needs the mean of one velocity per image; use composition single"
        )


def check_set(subjects: Sequence[Subject], progress: bool = False) -> None:
    """Check all files; only the headers of the images are read.

    Raises:
        InputError: for files that are missing or no images.
    """
    files = {getattr(s, key): (f"subject {s.id}: {key}", True) for s in subjects for key in FILES if getattr(s, key)}
    check_files(files, "set", progress)


@contextmanager
def running(
    output: str | PathLike[str],
    names: Sequence[str],
    files: Sequence[str],
    rounds: int,
    config: RegistrationConfig,
    outputs: Iterable[str] | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The output folder, locked, and the options of :func:`monai_locor.cohort.run_cohort` with workers for all rounds.

    Args:
        output: output folder.
        names: ids of the images.
        files: names of the files that are written into the folder, besides those of a cohort and ``template.json``.
        rounds: number of rounds after the start.
        config, outputs: of the final registrations, which are checked.
        options: options of the caller.

    Raises:
        InputError: for options and folders that cannot be used.
        TypeError: for an unknown option.
    """
    check_dask()
    given = {**OPTIONS, **options}
    if given.keys() - OPTIONS.keys():
        raise TypeError(f"unknown options {', '.join(given.keys() - OPTIONS.keys())}; known are {', '.join(OPTIONS)}")
    requested(config, outputs, given["seed"], given["thresholds"])
    machine = {name: given.pop(name) for name in ("device", "scheduler", "workers", "threads")}
    place = Machine.of(**machine, jobs=len(names))
    root = check_output_dir(expanded(output, f"output folder {output}").absolute())
    check_set_folder(root, names, [*files, TEMPLATE_RECORD], rounds, given["thresholds"] is not None)
    with CohortFolder(root / "rounds").locked(), connected(place.scheduler, place.workers) as client:
        yield root, {**given, "machine": dataclasses.replace(place, client=client)}


OPTIONS: dict[str, Any] = {
    **{"seed": 0, "thresholds": None, "timeout": None, "force": False, "progress": True},
    **dict.fromkeys(("device", "scheduler", "workers", "threads")),
}


def _built(rounds: Rounds, count: int, outputs: Iterable[str] | None) -> Template:
    """Run all rounds and the final registrations."""
    spaces = [rounds.first()]
    for number in range(1, count + 1):
        spaces.append(rounds.next(number, spaces[-1]))
    found = rounds.final(spaces[-1], None if outputs is None else list(outputs))
    return described(rounds, spaces, found.rows)


def described(rounds: Rounds, spaces: Sequence[Space], rows: list[dict[str, Any]]) -> Template:
    """The result; also written to ``template.json``."""
    kept = [{name: space.record[name] for name in KEPT} for space in spaces]
    names = {contrast: image_name(contrast, rounds.reference) for contrast in spaces[-1].record["gains"]}
    values = {
        **{"format": TEMPLATE_FORMAT, "version": __version__, "reference": rounds.reference, "templates": names},
        **{"start": rounds.start, "rounds": kept},
        "subjects": [dataclasses.asdict(subject) for subject in rounds.subjects],
    }
    write_json(rounds.root / TEMPLATE_RECORD, values)
    images = {contrast: rounds.root / name for contrast, name in names.items()}
    return Template(rounds.root, images, rounds.reference, rows, kept)
