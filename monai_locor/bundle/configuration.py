# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The configuration of a running bundle: its folder, its options, its engines.

MONAI adds unknown options to a configuration without a warning, and reports bad input by long chains of tracebacks.
:class:`Configuration` refuses unknown options, and makes the parts of a configuration in an order that finds bad input early.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

from ..errors import InputError
from .known_options import KnownOptions
from .one_line import causes, one_line_errors

__all__ = ["Configuration"]

T = TypeVar("T")


class Configuration:
    """The configuration that an expression is part of, made by ``$bundle.Configuration(__local_refs)``.

    MONAI gives an expression the resolved references of its parser, ``__local_refs``, but neither the parser nor the workflow
    that runs it. ``monai.bundle run`` takes a workflow class that could hand them over only as a further option of every
    command line (``--workflow_name``). Therefore they are looked up among the live objects, by these references.

    Args:
        references: ``__local_refs`` of the expression.

    Raises:
        ValueError: if no parser owns them.
    """

    def __init__(self, references: Mapping[str, Any]) -> None:
        parser = _owner(ConfigParser, lambda parser: parser.ref_resolver.resolved_content is references)
        if parser is None:
            raise ValueError("references must be __local_refs of an expression in a bundle's configuration")
        self.parser = parser
        self.workflow = _owner(ConfigWorkflow, lambda workflow: workflow.parser is parser)

    @property
    def root(self) -> str:
        """Folder of the bundle; ``"."`` if no workflow runs the configuration."""
        if self.workflow is None:
            return "."
        folder = Path(self.workflow.config_root_path).absolute()
        return str(folder.parent if folder.name == "configs" else folder)

    def check_options(self, *config_files: str) -> None:
        """Refuse options that have no effect; to be called in ``initialize``.

        Options may come from the command line, from ``monai.bundle.run(...)`` or from further configuration files.

        Args:
            config_files: names of the shipped files, in the folder of the configuration.

        Raises:
            SystemExit: with one line that names every unknown option and the closest known one.
        """
        files, others = [], []
        if self.workflow is not None:
            files = [Path(self.workflow.config_root_path) / name for name in config_files]
            others = [self.workflow.init_id, self.workflow.run_id, self.workflow.final_id]
        with one_line_errors():
            if message := KnownOptions(self.parser, files, others).message():
                raise InputError(message)

    def get(self, id: str) -> Any:
        """The value, object or engine of an entry; made when first asked for."""
        return self.parser.get_parsed_content(id)

    def make(self, *ids: str) -> None:
        """Make entries, in this order.

        Raises:
            InputError: also for a ValueError or TypeError: an option that a component refuses is the user's mistake.
        """
        for id in ids:
            try:
                self.get(id)
            except Exception as error:
                chain = list(causes(error))
                if any(isinstance(link, InputError) for link in chain) or not isinstance(chain[-1], ValueError | TypeError):
                    raise
                raise InputError(f"{id.replace('::', ' ')} cannot be made: {chain[-1]}") from error


def _owner(kind: type[T], owns: Any) -> T | None:
    """The object of a class, or of a subclass, for which ``owns`` holds."""
    return next((found for found in gc.get_objects() if issubclass(type(found), kind) and owns(found)), None)
