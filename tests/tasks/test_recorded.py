"""What is recorded beside a result: complete, true after a resume, and no part of a fingerprint."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from components.artifacts.code import DIFF_BYTES, CodeState
from components.artifacts.digest import bytes_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.local import LocalContext
from components.artifacts.provenance import Hardware, Work, recipe_version
from components.recipe.execution import ExecutionConfig
from flows.request import load_graph
from tasks.context import WALL, TrackedResume, WorkClock
from tasks.recorded import finished, provenance_of, records_of, tags_of
from tasks.session import Session


def git(repository: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(repository), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "requirements.lock").write_text("a==1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_code_is_recorded_with_its_uncommitted_changes(repository: Path) -> None:
    clean = CodeState.read(repository)
    assert len(clean.commit) == 40
    assert (clean.dirty, clean.diff, clean.lock) == (False, b"", "requirements.lock")
    assert clean.lock_sha256 == bytes_sha256(b"a==1\n")
    (repository / "code.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 3\n")
    dirty = CodeState.read(repository)
    assert dirty.dirty
    assert b"-x = 1\n+x = 2\n" in dirty.diff
    assert f"not in git: new.py sha256 {bytes_sha256(b'y = 3' + bytes([10]))}".encode() in dirty.diff
    assert dirty.tags()["git.diff_sha256"] == dirty.diff_sha256 == bytes_sha256(dirty.diff)
    (repository / "code.py").write_text("z = 1\n" * DIFF_BYTES)
    large = CodeState.read(repository)
    assert DIFF_BYTES < len(large.diff) < DIFF_BYTES + 100
    assert large.diff_sha256 != bytes_sha256(large.diff), "the digest is of the whole"
    assert CodeState.read(repository / "nowhere") == CodeState()


def session_of(loaded, **changes) -> Session:
    known = {
        "store": None,
        "tracker": None,
        "board": None,
        "execution": loaded.recipe.execution,
        "work": Path("."),
        "run_id": "flow-1",
        "repeat": "",
        "allowed": frozenset(),
        "loaded": loaded,
        "code": CodeState(commit="c" * 40, dirty=True, diff=b"diff", diff_sha256="d" * 64, lock_sha256="e" * 64),
    }
    return Session(**{**known, **changes})


def test_every_value_of_a_stage_is_recorded_with_its_origin() -> None:
    graph, loaded = load_graph("nano", ["rlvr.1.steps=3"], seed=4)
    for node in graph.nodes.values():
        session = session_of(loaded)
        made = finished(provenance_of(node, session, {}), session, {}, 36.0, "mlflow-run")
        section = json.loads(node.config.section.model_dump_json())
        recorded = {k.removeprefix(f"{node.key}."): v for k, v in made.config.items() if k.startswith(f"{node.key}.")}
        for name, value in section.items():
            if not isinstance(value, (dict, list)):
                assert recorded[name].value == value, f"{node.name}: {name}"
        assert made.config["seed"].origin == "--set seed=4"
        assert (made.config["execution.learners"].value, made.recipe_seed) == (2, 4)
        assert ("model.preset" in made.config) == node.stage.uses_model
    second = provenance_of(graph.nodes["rlvr-2"], session_of(loaded), {})
    assert second.config["rlvr.1.steps"].model_dump() == {"value": 3, "origin": "--set rlvr.1.steps=3"}
    assert second.config["rlvr.1.loss.beta"].origin.startswith("flows/recipes/nano.yaml:")
    assert "rlvr.0.steps" not in second.config
    base = provenance_of(graph.nodes["evaluate-base"], session_of(loaded), {})
    assert base.config["evaluate.samples"].value == 2
    assert base.config["evaluate.samples"].origin.startswith("evaluate.base_samples, flows/recipes/nano.yaml:")


def test_tags_and_records_name_recipe_code_run_and_hardware() -> None:
    graph, loaded = load_graph("nano", ["sft.steps=3"])
    session = session_of(loaded)
    tags = tags_of(graph.nodes["sft"], provenance_of(graph.nodes["sft"], session, {}))
    assert tags["ringflow.recipe"] == "nano"
    assert tags["ringflow.recipe_version"] == recipe_version(loaded.recipe)
    assert tags["ringflow.overrides"] == "sft.steps=3"
    assert tags["git.commit"] == "c" * 40
    assert (tags["git.dirty"], tags["prefect.flow_run_id"], tags["ringflow.seed"]) == ("true", "flow-1", "0")
    assert int(tags["hardware.cores"]) > 0
    assert tags["hardware.cpu"]
    records = records_of(session)
    assert records["git.diff"] == b"diff"
    assert records["recipe.yaml"] == loaded.path.read_bytes()
    assert json.loads(records["config.json"])["sft.steps"] == {"value": 3, "origin": "--set sft.steps=3"}
    assert "git.diff" not in records_of(session_of(loaded, code=CodeState()))


def test_none_of_it_is_part_of_a_fingerprint() -> None:
    graph, loaded = load_graph("nano")
    other_graph, other = load_graph("nano", ["execution.learners=1", "execution.engines=1", "execution.device=cuda"])
    for name, node in graph.nodes.items():
        assert fingerprint_of(node.identity({})) == fingerprint_of(other_graph.nodes[name].identity({}))
    assert recipe_version(loaded.recipe) == recipe_version(other.recipe)
    assert recipe_version(loaded.recipe) != recipe_version(load_graph("nano", ["sft.steps=3"])[1].recipe)


def test_hardware_and_device_hours() -> None:
    assert Hardware.read().memory_bytes > 1 << 20
    assert Work.of(ExecutionConfig(), 1800).device_hours == 1.0, "two cores for half an hour"
    gpus = Work.of(ExecutionConfig(device="cuda", learners=8, engines=4, engine_tensor_parallel=4), 900)
    assert (gpus.device, gpus.devices, gpus.device_hours) == ("gpu", 16, 4.0)


def test_wall_time_goes_on_after_a_resume_and_is_not_counted_twice_after_a_rollback(tmp_path: Path) -> None:
    context, files = LocalContext(tmp_path, "sft"), tmp_path / "files"
    area = context.resume
    files.mkdir()
    area.save(5, files, {"n": 1, WALL: 100.0})
    clock = WorkClock()
    told: list[int] = []
    resume = TrackedResume(area, context.outbox, None, clock, told.append)
    assert resume.latest().state == {"n": 1}
    assert 100 <= clock.seconds() < 130
    resume.save(6, files, {"n": 2})
    assert 100 <= area.latest().state[WALL] < 130
    assert resume.latest().state == {"n": 2}, "a rollback in the same attempt"
    assert told == [5, 6]
    assert clock.seconds() < 130
