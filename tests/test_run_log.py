# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The warnings of a run are kept with it, and logging is as it was."""

from __future__ import annotations

import logging
import threading

import pytest

from monai_locor.run_log import collecting, doubt

ROOT = logging.getLogger("monai_locor")
logger = logging.getLogger("monai_locor.somewhere.deep")


def test_warnings_are_kept_once_and_in_order_and_notes_are_not():
    with collecting() as log:
        logger.warning("first %d", 1)
        logger.info("no warning")
        doubt(logger, "second\nline of %s", "text")
        logger.error("third")
        logger.warning("first 1")
        logging.getLogger("another").warning("of another package")
    assert log.warnings == ["first 1", "second line of text", "third"] and log.doubts == ["second line of text"]
    logger.warning("after it")
    doubt(logger, "after it")
    assert len(log.warnings) == 3


@pytest.mark.parametrize("quiet", [lambda: ROOT.setLevel(logging.CRITICAL), lambda: logging.disable(logging.CRITICAL)])
def test_doubts_do_not_depend_on_the_level_of_the_log(quiet):
    level = ROOT.level
    try:
        quiet()
        with collecting() as log:
            doubt(logger, "100 % sure")
            doubt(logger, "%d %%", 3)
    finally:
        ROOT.setLevel(level)
        logging.disable(logging.NOTSET)
    assert log.warnings == log.doubts == ["100 % sure", "3 %"]


def test_an_outer_block_goes_on_inside():
    with collecting() as outer:
        logger.warning("a")
        with collecting() as inner:
            logger.warning("b")
        logger.warning("c")
    assert inner is outer and outer.warnings == ["a", "b", "c"]


def test_every_thread_keeps_its_own():
    found, begun, ended = {}, threading.Barrier(3), threading.Barrier(3)

    def work(name: str) -> None:
        with collecting() as log:
            begun.wait()
            logger.warning("of %s", name)
            ended.wait()
        found[name] = log.warnings

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    with collecting() as log:
        begun.wait()
        ended.wait()
    for thread in threads:
        thread.join()
    assert found == {"a": ["of a"], "b": ["of b"]} and log.warnings == []


def test_logging_is_left_as_it_was():
    before = ROOT.level, ROOT.propagate, list(ROOT.handlers)
    with pytest.raises(KeyError), collecting():
        raise KeyError
    assert (ROOT.level, ROOT.propagate, list(ROOT.handlers)) == before


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_without_any_handler_a_warning_is_still_printed_once(runs, monkeypatch, capsys):
    """As Python does where nobody has configured logging."""
    monkeypatch.setattr(ROOT, "propagate", False)
    monkeypatch.setattr(ROOT, "handlers", [])
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())  # which knows the stderr of this test
    begun, ended = threading.Barrier(runs + 1), threading.Barrier(runs + 1)

    def work() -> None:
        with collecting():
            begun.wait()
            ended.wait()

    threads = [threading.Thread(target=work) for _ in range(runs)]
    for thread in threads:
        thread.start()
    begun.wait()
    logger.warning("to be seen")
    ended.wait()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err == "to be seen\n"
