"""Log lines as JSON: where they are from, what they leave out, and nothing when off."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from components.failures import BadInput
from components.telemetry.logs import VARIABLE, Place, at, json_log


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_name_run_stage_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs" / "ringflow.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI7K7MDENG")
    log = logging.getLogger("components.rl.journal")
    library = logging.getLogger("some.library")
    with json_log(), at(Place("run-1")):
        log.warning("before %s", "stages")
        library.warning("a library warns of wJalrXUtnFEMI7K7MDENG")
        library.info("and chats")
        place = Place("run-1", "rlvr-1")

        def stage() -> None:
            with at(place):
                log.warning("first")
                place.step = 4
                try:
                    raise ValueError("two\nlines")
                except ValueError:
                    log.exception("failed")

        thread = threading.Thread(target=stage)
        thread.start()
        thread.join(10)
    log.warning("after the block")
    found = lines(path)
    assert [line["message"] for line in found] == [
        "before stages",
        "a library warns of ***",
        "first",
        "failed",
    ]
    assert [(line.get("run"), line.get("stage"), line.get("step")) for line in found] == [
        ("run-1", None, None),
        ("run-1", None, None),
        ("run-1", "rlvr-1", None),
        ("run-1", "rlvr-1", 4),
    ]
    assert found[0].keys() == {"time", "level", "logger", "message", "run"}
    assert found[0]["time"].endswith("+00:00")
    assert found[3]["exception"].endswith("ValueError: two\nlines")


def test_a_record_is_written_once_where_propagation_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "log"))
    own = logging.getLogger("flows")
    monkeypatch.setattr(own, "propagate", False)
    with json_log():
        logging.getLogger("flows.board").warning("once")
        logging.getLogger("tasks.runner").warning("once too")
    assert [line["message"] for line in lines(tmp_path / "log")] == ["once", "once too"]


def test_it_is_off_without_the_variable_and_a_bad_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = list(logging.getLogger().handlers)
    with json_log():
        assert logging.getLogger().handlers == before
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(BadInput, match=VARIABLE), json_log():
        pass
