# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Builds and loads the device guard that lets tensors on ``cuda`` exist in a build of torch without CUDA.

Loading it, and the changes to torch that go with it, cannot be undone: it is for a process of its own, see ``child.py``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["built", "load", "why_not"]

SOURCE = Path(__file__).with_name("device_guard.cpp")
OPTIONS = ["-shared", "-fPIC", "-O0", "-w", "-std=c++17"]  # it is loaded once and does nothing: compile fast

# torch is imported where it is needed: `load` has to come first


def why_not() -> str | None:
    """Why there is nothing to build here; None where there is."""
    import torch
    from torch.utils.cpp_extension import get_cxx_compiler

    if torch.version.cuda is not None or torch.version.hip is not None:
        return "this build of torch has a device of its own: the tests marked gpu are for it"
    compiler = get_cxx_compiler()
    return None if shutil.which(compiler) else f"there is no C++ compiler ({compiler}); CXX names another one"


def built(folder: Path) -> Path:
    """The compiled guard, made if ``folder`` does not hold one for this source, this torch and this compiler.

    Raises:
        RuntimeError: with what the compiler says, where it fails.
    """
    import torch

    command = _command()
    key = hashlib.sha256("\n".join([torch.__version__, *command, SOURCE.read_text()]).encode()).hexdigest()[:16]
    library = folder / f"device_guard_{key}.so"
    if not library.exists():
        unfinished = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the device guard cannot be built:\n{' '.join(command)}\n{done.stderr}")
        unfinished.replace(library)  # another process may have made it meanwhile
    return library


def _command() -> list[str]:
    import torch
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    headers = [f"-I{path}" for path in include_paths()]
    links = [option for path in library_paths() for option in (f"-L{path}", f"-Wl,-rpath,{path}")]
    return [get_cxx_compiler(), *OPTIONS, abi, *headers, str(SOURCE), *links, "-ltorch_cpu", "-lc10"]


def load(library: Path) -> None:
    """Let this process make tensors on ``cuda``.

    To be called before torch is imported, which then asks once whether there is such a device.
    """
    ctypes.CDLL(str(library))

    import torch

    torch.cuda._lazy_init = lambda: None  # what `.to("cuda")` calls, and refuses in such a build
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` is made on the host and copied
    torch.autograd.set_multithreading_enabled(False)  # backward in the thread that the dispatch modes know of
    # `module.to("cuda")` replaces parameters: it cannot put data of one kind into a tensor of another
    torch.__future__.set_overwrite_module_params_on_conversion(True)
