# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The kernels compile for GPUs of two generations, on a machine without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SPILLED = 8  # bytes of a thread: Triton 3.7.1 spills one pair of registers with J = 8 for Hopper, 3.9.0 none
KERNELS = (
    *("lists_kernel", "features_kernel", "average_kernel", "gradient_kernel"),
    *("residual_kernel", "residual_gradient_kernel"),
)
SHARED_MEMORY = 48 * 1024  # bytes that every program gets without asking


@pytest.mark.usefixtures("interpreter")
def test_compile_with_hardly_any_spilled_registers(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = Path(__file__).with_name("compile_for_gpus.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(row["kernel"], row["capability"]) for row in rows} == set(product(KERNELS, (80, 90)))
    for row in rows:
        assert row["stack"] <= SPILLED and row["dynamic_shared"] < SHARED_MEMORY, row
