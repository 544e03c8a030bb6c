# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Child processes that end before, within and after an answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_locor import child_process
from monai_locor.child_process import ChildError, ChildProcess, ChildTimeoutError

#: Writes the text of a question to stdout as it is, then does what the question says.
STAND_IN = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    question = json.loads(line)
    print(question["text"], end="", flush=True)
    if question["then"] == "hang":
        time.sleep(60)
    if question["then"] == "end":
        sys.exit("out of luck")
"""
WHOLE = '{"a": [1, 2]}\n'


def ended(process: int) -> None:
    """Wait for the end of a process that is not a child of this one."""
    for _ in range(600):
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":  # nobody waits for it
                return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} has not ended")


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "stand_in_of_child.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ChildProcess("stand_in_of_child")
    yield found
    found.close()


@pytest.mark.parametrize("text", ["", *(WHOLE[:count] for count in (1, 6, len(WHOLE) - 1))])
@pytest.mark.parametrize(
    ("then", "kind", "message"), [("hang", ChildTimeoutError, r"took more than 0.05 s"), ("end", ChildError, "out of luck")]
)
def test_a_part_of_an_answer_is_none(child, text, then, kind, message):
    with pytest.raises(kind, match=message):
        child.ask({"text": text, "then": then}, 0.05 if then == "hang" else None)
    assert child.ask({"text": WHOLE, "then": "go on"}) == {"a": [1, 2]}


@pytest.mark.parametrize("then", ["hang", "end", "go on"])
def test_a_whole_answer_counts_whatever_comes_after_it(child, then):
    assert child.ask({"text": WHOLE, "then": then}, 30) == {"a": [1, 2]}


#: starts a child, asks it something that takes long, and waits
PARENT = """
import sys
from monai_locor.child_process import ChildProcess
child = ChildProcess(sys.argv[1])
process = child._started()
print(process.pid, flush=True)
child.ask({"sleep": 600})
"""
BUSY = """
import time
from monai_locor.child_process import READY_LINE, questions
asked = questions()
print(READY_LINE, flush=True)
for question in asked:
    time.sleep(question["sleep"])
"""


@pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")
def test_a_busy_child_ends_with_its_parent(tmp_path):
    (tmp_path / "busy_child.py").write_text(BUSY)
    root = str(Path(child_process.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "busy_child"], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    ended(child)
