# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Settings of a registration: immutable, convertible to and from JSON, with unknown keys rejected."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from ..errors import InputError
from ..free_memory import parsed_bytes
from ..io.meshes import SPACES
from ..io.paths import expanded, read_json
from ..io.pictures import MAX_PIXELS
from .dotted import replaced
from .measures import CUSTOM_SIMILARITY, bending_weight_of, check_name, check_options
from .numbers import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, STEPS, Numbers
from .restriction import parsed_axes
from .schedule import DEFAULT_STAGES, DRAFT_STAGES, FAST_STAGES, MAX_SLICE_SIZE, PAPER_STAGES, Stage, schedule_of

__all__ = ["PRESETS", "RegistrationConfig", "Stage"]


def _build(kind: type, values: Mapping[str, Any], base: Any = None) -> Any:
    names = [f.name for f in dataclasses.fields(kind)]
    unknown = [str(key) for key in values if key not in names]
    if unknown:
        raise InputError(f"unknown settings: {', '.join(unknown)}; {kind.__name__} has {', '.join(names)}.")
    try:
        return kind(**values) if base is None else dataclasses.replace(base, **values)
    except TypeError as error:
        raise InputError(f"cannot make a {kind.__name__} of {dict(values)}: {error}.") from error


@dataclass(frozen=True)
class RegistrationConfig:
    """All settings of a registration.

    Args:
        stages: the schedule, coarse to fine.
        similarity: the loss minimized in both directions: ``"locor"``, the local correlation ratio with a basis, whose
            settings follow; or another of :data:`monai_locor.registration.similarity.SIMILARITIES`, which uses intensities
            only. ``"custom"`` in the settings of a result denotes a custom module.
        similarity_options: arguments of the measure's class without a setting here, for instance ``{"num_bins": 16}``.
            Read-only.
        derivative: use of the derivative magnitude: ``"none"``; ``"basis"``, as a second input of the basis functions; or
            ``"both"``, also as a second target channel, as in the paper.
        derivative_unit: unit length of the derivative: ``"sample"``, the sample distance of the stage; or ``"voxel"``, the
            smallest voxel side of the image.
        num_basis: number of basis functions J.
        hidden_channels: widths of the hidden layers of the basis network.
        kernel_sigma: standard deviation of the Gaussian window, samples of the stage; in large pictures windows are wider,
            see :meth:`window_sigma`. For anisotropic samples in units of the geometric mean of their distances, so that
            windows are isotropic in mm, see :mod:`.window_sizes`.
        truncated: truncation radius of the window, standard deviations.
        stride: distance between windows, in the units of ``kernel_sigma``.
        ridge: regularization of the local least-squares fit.
        eps: floor of the residual in the logarithm or, in the other forms, of the variance in a window.
        form: ``"log"``, ``"normalized"`` or ``"robust"``, see :class:`monai_locor.losses.LocalLearnedBasisCRLoss`.
        basis: ``"learned"`` or ``"polynomial"``.
        min_mass: minimum valid fraction of a window; other windows are ignored.
        bending_weight: weight of the bending energy (mm) times the squared sample distance (mm^2; the geometric mean over the
            axes), in large pictures also times the squared width of the window relative to ``kernel_sigma``; None for the
            default of the measure, see :attr:`effective_bending_weight`.
        landmark_weight: weight of the landmarks, if ``register`` is given any, relative to the similarity, see
            :class:`.landmark_term.LandmarkTerm`; 0 to only report their distances.
        label_weight: weight of the labels, likewise, see :class:`.label_term.LabelTerm`; 0 to only report their overlap.
        surface_weight: weight of the surfaces, see :class:`.surface_term.SurfaceTerm`; 0 to only report their distances.
        surface_space: coordinates of the surfaces in files: ``"auto"``, ``"ras"`` or ``"lps"``, see
            :func:`monai_locor.io.meshes.read_mesh`.
        learning_rate_affine: learning rate of the affine, in units of half the field of view per step.
        learning_rate_basis: learning rate of the basis networks.
        damping: damping of the optimizer of the coefficients, see :class:`monai_locor.registration.optimizer.DampedAdam`.
        warmup: number of steps at the start of each stage in which the learning rates of affine and coefficients increase;
            without it, the optimizer's first steps have full length regardless of the gradient.
        decay_start: fraction of the iterations of each stage after which these rates decay.
        decay_end: rates at the end of a stage, relative to the maximum.
        transform: ``"rigid"``, rotation and translation; ``"similarity"``, with one scale for all axes;
            ``"affine"``; or ``"deformable"``, an affine and a deformation. It is composed with the initial transform, so an
            initial shear is kept. For the stages that run without a deformation see :attr:`schedule`.
        affine: whether to optimize the affine part.
        restrict_deformation: whether the deformation moves along each axis of the fixed image as stored: 1 or 0 for each, such
            as ``(1, 1, 0)`` or ``"1x1x0"``; None for all. The displacements of ``exp(v)`` and ``exp(-v)`` are zero along the
            other axes. The affine part is not restricted, see ``affine``.
        initialization: ``"auto"``, ``"world"``, ``"centers"`` or ``"moments"``.
        multistart: whether to compare the affine of the first stages with the best of a search over all rotations,
            translations and, unless ``transform`` is ``"rigid"``, several scales. If a start near the initial orientation is
            about as good, or one of another orientation clearly better, the stages are repeated from it and the
            better result is kept. ``"auto"``: if no initial transform was given; ``"always"``; or ``"never"``.
        intersubject: ``"auto"``: if the residuals and the deformation after the coarse stages are large, as in inter-subject
            pairs, continue with :attr:`for_intersubject`; with masks, only if the residuals without masks are also large.
            ``"never"``: keep the form. ``"always"``: the pair is known to be of two subjects, so the form is not in question,
            and the verdict does not expect the affine of one. The form applies to the default measure in its form ``"log"``
            only. See :mod:`monai_locor.registration.correspondence`.
        missing: tissue that only one image shows, such as at a resection, a lesion or metal, see
            :mod:`monai_locor.registration.missing`. ``"never"``: not looked for; ``"map"``: estimated after the registration,
            see :attr:`.result.RegistrationResult.missing_fixed`, which does not change the transform; ``"auto"``: also
            estimated before each stage finer than the coarse ones and left out there.
        padding: ``"auto"``: voxels of one value beyond a plane at which the anatomy ends, as in a slab or a part of a head that
            was resampled to a larger grid, do not count in an image without a mask, see
            :mod:`monai_locor.registration.padding`; ``"never"``: they count as background.
        quantile: fraction of voxels below and above the intensity range that is mapped to [0, 1].
        squarings: maximum number of squarings of the exponential; each stage takes as many as its velocity needs.
        composition: ``"single"``, one velocity field whose control points are refined from stage to stage; or ``"stages"``, as
            in the paper, a new field for every stage, which enters the map twice, see
            :class:`monai_locor.networks.composition.StagedVelocity` (use half of the learning rates of ``"single"``).
        region: region of the loss: ``"foreground"``, the bounding box of voxels brighter than 5 % of the intensity range
            (inside the mask); or ``"image"``, the whole image or the bounding box of the mask. Both with a margin of six
            samples; with the default measure, up to a sample distance of two voxels and after coarser deformable stages, of
            three or the reach of a window.
        undo_worse: whether to restore the state before a stage that increased the loss.
        max_pixels: 2-D picture files (PNG, JPEG, TIFF, BMP) with more pixels are averaged over blocks of n x n pixels before
            the registration, with the smallest n that suffices. The displacement fields lie on the averaged grids.
        memory: memory that the registration may take on its device: bytes, or an amount such as ``"4GiB"``; None for the free
            memory. If it is not enough, slabs are made smaller, then the finest stages left out, with a warning; see
            :mod:`.memory_plan`.
    """

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    similarity: str = "locor"
    similarity_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    derivative: str = "basis"
    derivative_unit: str = "sample"
    num_basis: int = 5
    hidden_channels: tuple[int, ...] = (16, 16)
    kernel_sigma: float = 0.8
    truncated: float = 3.0
    stride: float = 3.0
    ridge: float = 1e-4
    eps: float = 1e-5
    form: str = "log"
    basis: str = "learned"
    min_mass: float = 0.25
    bending_weight: float | None = None
    landmark_weight: float = 1.0
    label_weight: float = 0.3
    surface_weight: float = 0.3
    surface_space: str = "auto"
    learning_rate_affine: float = 5e-3
    learning_rate_basis: float = 1e-2
    damping: float = 1.0
    warmup: int = 5
    decay_start: float = 0.0
    decay_end: float = 0.1
    transform: str = "deformable"
    affine: bool = True
    restrict_deformation: tuple[int, ...] | None = None
    initialization: str = "auto"
    multistart: str = "auto"
    intersubject: str = "auto"
    missing: str = "never"
    padding: str = "auto"
    quantile: float = 0.001
    squarings: int = 6
    composition: str = "single"
    region: str = "foreground"
    undo_worse: bool = True
    max_pixels: int = MAX_PIXELS
    memory: int | None = None

    def __post_init__(self) -> None:
        stages = tuple(s if isinstance(s, Stage) else _build(Stage, s) for s in self.stages)
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "hidden_channels", tuple(self.hidden_channels))
        object.__setattr__(self, "memory", None if self.memory is None else parsed_bytes(self.memory))
        object.__setattr__(self, "restrict_deformation", parsed_axes(self.restrict_deformation))
        for name, numbers in NUMBERS.items():
            numbers.check(name, getattr(self, name))
        for channels in self.hidden_channels:
            COUNT.check("hidden_channels", channels)
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.transform != "deformable" and not self.affine:
            raise InputError(f"affine false leaves nothing to optimize with transform {self.transform!r}; set affine true.")
        if self.transform != "deformable" and self.restrict_deformation is not None:
            raise InputError(f"restrict_deformation: there is no deformation with transform {self.transform!r}; leave out one.")
        if self.similarity != CUSTOM_SIMILARITY:
            check_name(self.similarity)
        # a copy, independent of the caller's mapping
        object.__setattr__(self, "similarity_options", check_options(self.similarity, self.similarity_options))

    @property
    def effective_bending_weight(self) -> float:
        """``bending_weight``, or the default of the measure if it is None."""
        return bending_weight_of(self.similarity, self.form) if self.bending_weight is None else self.bending_weight

    @property
    def schedule(self) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
        """The stages to run: the first, affine stages, and all others. See :func:`.schedule.schedule_of`."""
        return schedule_of(self.stages, self.transform, self.affine, self.learning_rate_affine)

    @property
    def for_intersubject(self) -> RegistrationConfig:
        """Return a copy with the preset ``"intersubject"`` applied to all settings that have their default values."""
        plain = {f.name: f.default for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in INTERSUBJECT.items() if getattr(self, k) == plain[k]})

    def window_sigma(self, dims: int, size: float) -> float:
        """Return the standard deviation of the window in ``dims`` dimensions, samples.

        A Gaussian window has the weight of about (4 pi sigma^2)^(D/2) samples. In a large picture it is widened to have as many
        as in 3-D: with a third of the samples, the basis functions would fit any texture. In a small one, for instance a slice
        of a volume, that would be too large a part of the coarse stages.

        Args:
            dims: 2 or 3.
            size: see :func:`.schedule.picture_size`.

        >>> [round(RegistrationConfig().window_sigma(2, size), 2) for size in (256, 512)]
        [0.8, 1.35]
        """
        if dims != 2 or size <= MAX_SLICE_SIZE:
            return self.kernel_sigma
        return max(self.kernel_sigma, (4 * math.pi) ** 0.25 * self.kernel_sigma**1.5)

    def with_transform(self, transform: str | None) -> RegistrationConfig:
        """Return a copy with another ``transform``; None keeps the present one.

        Raises:
            InputError: for an unknown value; the message lists the valid values.
        """
        return self if transform is None else dataclasses.replace(self, transform=transform)

    def with_similarity(self, similarity: str, options: Mapping[str, Any] | None = None) -> RegistrationConfig:
        """Return a copy with another measure or other options.

        Args:
            similarity: name of the measure.
            options: its ``similarity_options``; by default the present options if the measure is unchanged, otherwise none.

        Raises:
            InputError: for an unknown measure or option; the message lists the valid choices.
        """
        if options is None:
            options = self.similarity_options if similarity == self.similarity else {}
        return dataclasses.replace(self, similarity=similarity, similarity_options=options)

    @classmethod
    def of(cls, settings: RegistrationConfig | Mapping[str, Any] | str | PathLike[str]) -> RegistrationConfig:
        """Return the configuration for a configuration, the name of a preset, a mapping or a JSON file.

        A mapping (or file) may name a base ``"preset"`` (default: ``"default"``). Dotted names change a part of a setting:
        ``"stages.5.iterations"``, ``"similarity_options.num_bins"``.

        Raises:
            InputError: for an unknown preset, file or key; the message lists the valid choices.
        """
        if isinstance(settings, cls):
            return settings
        if isinstance(settings, Mapping):
            values = dict(settings)
            name = values.pop("preset", "default")
            if not isinstance(name, str) or name not in PRESETS:
                raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}.")
            whole = {key: value for key, value in values.items() if "." not in str(key)}
            parts = {str(key): value for key, value in values.items() if "." in str(key)}
            config: RegistrationConfig = _build(cls, whole, PRESETS[name])
            return _build(cls, replaced(config.to_dict(), parts)) if parts else config
        if str(settings) in PRESETS:
            return PRESETS[str(settings)]
        path = expanded(settings)  # type: ignore[arg-type]
        if not path.is_file():
            raise InputError(f"{settings!s} is neither a preset ({', '.join(PRESETS)}) nor a JSON file of settings.")
        try:
            content = read_json(path)
        except (ValueError, OSError) as error:
            raise InputError(f"{path}: not a JSON file of settings ({error}).") from error
        if not isinstance(content, dict):
            raise InputError(f"{path}: expected an object of settings, got {type(content).__name__}.")
        return cls.of(content)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that :meth:`of` accepts."""
        return dataclasses.asdict(self)

    def with_iterations(self, total: int, coarsest: float = math.inf) -> RegistrationConfig:
        """Return a copy with ``total`` deformable steps, distributed over the stages in proportion to their present steps.

        Affine stages keep their steps, unless all stages are affine.

        Args:
            total: total number of steps.
            coarsest: largest ``factor`` of deformable stages to run, for use with a good initial deformation; if all stages
                exceed it, the finest stage gets all steps.

        >>> config = RegistrationConfig(stages=(Stage(4, 80), Stage(4, 80, 16), Stage(2, 40, 8), Stage(1, 40, 4)))
        >>> [stage.iterations for stage in config.with_iterations(10).stages]
        [80, 5, 3, 2]
        >>> [stage.iterations for stage in config.with_iterations(10, coarsest=2).stages]
        [80, 0, 5, 5]

        Raises:
            InputError: if ``total`` is not a whole number >= 0, or if all stages have 0 steps.
        """
        STEPS.check("num_iterations", total)
        deformable = [s for s in self.stages if s.spacing is not None] or list(self.stages)
        finest = min((s.factor for s in deformable if s.iterations), default=math.inf)
        scaled = {i for i, s in enumerate(self.stages) if s in deformable}
        shared = {i for i in scaled if self.stages[i].factor <= max(coarsest, finest)}
        have = [s.iterations if i in shared else 0 for i, s in enumerate(self.stages)]
        if total > 0 and sum(have) == 0:
            raise InputError(f"no stage of the settings has iterations, so {total} cannot be distributed over them.")
        exact = [total * n / max(sum(have), 1) for n in have]
        share = [math.floor(x) for x in exact]
        by_remainder = sorted(shared, key=lambda i: share[i] - exact[i])  # stable: the coarser stage first
        for i in by_remainder[: total - sum(share)]:
            share[i] += 1
        steps = [n if i in scaled else s.iterations for i, (s, n) in enumerate(zip(self.stages, share, strict=True))]
        stages = tuple(dataclasses.replace(s, iterations=n) for s, n in zip(self.stages, steps, strict=True))
        return dataclasses.replace(self, stages=stages)


NUMBERS = {
    **dict.fromkeys(("num_basis", "squarings", "max_pixels"), COUNT),
    **dict.fromkeys(("kernel_sigma", "truncated", "stride", "ridge", "eps"), POSITIVE),
    **dict.fromkeys(("learning_rate_affine", "learning_rate_basis"), POSITIVE),
    "min_mass": Numbers("in (0, 1]", lambda x: 0 < x <= 1),
    "bending_weight": dataclasses.replace(NOT_NEGATIVE, optional=True),
    **dict.fromkeys(("damping", "landmark_weight", "label_weight", "surface_weight"), NOT_NEGATIVE),
    "warmup": STEPS,
    **dict.fromkeys(("decay_start", "decay_end"), SHARE),
    "quantile": Numbers("in [0, 0.5)", lambda x: 0 <= x < 0.5),
}
#: names of initial transforms and the corresponding settings
STARTS = {"auto": "auto", "world": "world", "centers": "centers", "center": "centers", "moments": "moments"}
CHOICES = {
    "form": ("log", "normalized", "robust"),
    "basis": ("learned", "polynomial"),
    "derivative": ("none", "basis", "both"),
    "derivative_unit": ("sample", "voxel"),
    "transform": ("rigid", "similarity", "affine", "deformable"),
    "initialization": tuple(dict.fromkeys(STARTS.values())),
    "multistart": ("auto", "always", "never"),
    "intersubject": ("auto", "always", "never"),
    "missing": ("never", "map", "auto"),
    "padding": ("auto", "never"),
    "composition": ("single", "stages"),
    "region": ("foreground", "image"),
    "surface_space": SPACES,
}
FLAGS = ("affine", "undo_worse")

# In inter-subject pairs most windows have large residuals, and the logarithm is dominated by the few that fit well: in a head,
# those at the scalp (benchmarks/influence.py). The robust form limits their weight. Its floor is 2 % of the intensity range.
# Wider windows average over more of what does not fit.
INTERSUBJECT: dict[str, Any] = {"form": "robust", "kernel_sigma": 1.3, "eps": 5e-4}
# The paper's settings as far as the engine supports them; docs/guide/paper.md lists the differences and derives the values.
PAPER: dict[str, Any] = {
    **{"derivative": "both", "derivative_unit": "voxel"},
    "truncated": 3 + (3 / 2) / 0.8,  # 3 sigma + stride / 2
    "eps": 1e-4,
    "bending_weight": 400 / 18,  # 1 / n^2 with n = 3, for one of two directions
    **{"damping": 0.0, "warmup": 0, "decay_end": 1.0},
    **{"multistart": "never", "intersubject": "never", "padding": "never", "undo_worse": False},
    **{"quantile": 0.0, "region": "image", "composition": "stages"},
}
PRESETS: dict[str, RegistrationConfig] = {
    "default": RegistrationConfig(),
    "fast": RegistrationConfig(stages=FAST_STAGES),
    "draft": RegistrationConfig(stages=DRAFT_STAGES),
    "intersubject": RegistrationConfig(stages=FAST_STAGES, intersubject="always", **INTERSUBJECT),
    "paper": RegistrationConfig(stages=PAPER_STAGES, **PAPER),
}
