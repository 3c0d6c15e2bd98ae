"""The embedded stack, on the real servers. Faults are tried on the S3 server alone, which starts in seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat as modes
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from infra import stack as embedded
from infra.stack import StackState, processes
from infra.stack import home as home_files
from infra.stack.profile import ENDPOINTS
from infra.stack.services import SERVICES
from tests.conftest import leftovers

S3_ONLY = ("s3",)

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("local_profile")]


@pytest.fixture
def local_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGFLOW_PROFILE", "local")


def pid_of(state: StackState, name: str) -> int:
    return next(service.pid for service in state.services if service.name == name)


def s3_client(variables: dict[str, str], **other):
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    keys = {
        "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": variables["AWS_ENDPOINT_URL"],
        "region_name": variables["AWS_DEFAULT_REGION"],
    }
    return session.create_client("s3", config=Config(retries={"max_attempts": 1}), **{**keys, **other})


# The whole stack.


def test_every_service_is_healthy_and_up_again_is_quick(stack: StackState) -> None:
    assert {service.name: service.state for service in embedded.status(stack.home)} == {
        service.name: "healthy" for service in SERVICES
    }
    began = time.monotonic()
    again = embedded.up(stack.home)
    assert again.started == []
    assert [service.pid for service in again.services] == [service.pid for service in stack.services]
    assert time.monotonic() - began < 10  # 0.3 s on an idle machine; the tests share two cores with the servers


def test_nothing_listens_outside_loopback(stack: StackState) -> None:
    pids = {process.pid for process in leftovers(stack.home)}
    listening = [
        (psutil.Process(pid).name(), connection.laddr)
        for pid in pids
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 10
    assert [entry for entry in listening if entry[1].ip not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")] == []


def test_a_ray_actor_runs_and_inherits_the_stores_address(stack: StackState) -> None:
    script = """
import json, os, ray
ray.init(log_to_driver=False, logging_level="error")
@ray.remote(num_cpus=0.25)
class Worker:
    def look(self):
        return {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "RINGFLOW_STORE", "MLFLOW_TRACKING_URI")}
print(json.dumps(ray.get(Worker.remote().look.remote(), timeout=120)))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **stack.environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen == {name: stack.environment[name] for name in seen}


def test_ray_refuses_a_driver_with_another_token(stack: StackState) -> None:
    script = "import ray; ray.init(log_to_driver=False); print('connected')"
    variables = {**os.environ, **stack.environment, "RAY_AUTH_TOKEN": "0" * 64}
    run = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=200)
    assert run.returncode != 0
    assert "connected" not in run.stdout
    assert "auth" in run.stderr.lower()


def test_mlflow_stores_artifacts_in_s3(stack: StackState, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    run = client.create_run("0").info.run_id
    client.log_text(run, "through the proxy", "note.txt")
    keys = home_files.credentials(stack.home)
    owner = {name: keys[f"mlflow_{name}"] for name in ("aws_access_key_id", "aws_secret_access_key")}
    listed = s3_client(stack.environment, **owner).list_objects_v2(Bucket="mlflow", Prefix=f"0/{run}")
    assert [entry["Key"].rsplit("/", 1)[1] for entry in listed["Contents"]] == ["note.txt"]


@pytest.mark.fault("kill -9 of the S3 server", "between runs", "`up` starts that one again")
def test_a_killed_server_is_started_again_and_the_others_are_left_alone(stack: StackState) -> None:
    s3_client(stack.environment).put_object(Bucket="ringflow", Key="kept", Body=b"before the kill")
    before = {service.name: service.pid for service in stack.services}
    os.kill(pid_of(embedded.up(stack.home), "s3"), signal.SIGKILL)
    healed = embedded.up(stack.home)
    assert healed.started == ["s3"], healed.notes
    assert healed.environment == stack.environment
    assert {s.name: s.pid for s in healed.services if s.name != "s3"} == {n: p for n, p in before.items() if n != "s3"}
    body = s3_client(stack.environment).get_object(Bucket="ringflow", Key="kept")["Body"].read()
    assert body == b"before the kill"


def test_the_worker_polls_the_pool(stack: StackState) -> None:
    with urllib.request.urlopen(f"{stack.environment['PREFECT_API_URL']}/work_pools/ringflow", timeout=20) as answer:
        assert json.load(answer)["type"] == "process"


# One server, broken in every way.


def test_down_ends_its_own_processes_only_and_can_be_called_twice(home: Path) -> None:
    state = embedded.up(home, only=S3_ONLY)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        assert pid_of(state, "s3") in embedded.down(home)
        assert leftovers(home) == set()
        assert bystander.poll() is None
        assert embedded.down(home) == []
    finally:
        bystander.kill()
        bystander.wait()


def test_credentials_are_private_generated_and_checked(home: Path) -> None:
    from botocore.exceptions import ClientError

    state = embedded.up(home, only=S3_ONLY)
    assert modes.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600
    client = s3_client(state.environment)
    client.put_object(Bucket="ringflow", Key="a/b", Body=b"text")
    assert client.get_object(Bucket="ringflow", Key="a/b")["Body"].read() == b"text"
    for wrong in ({"aws_secret_access_key": "0" * 40}, {"aws_access_key_id": "NOBODY"}):
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied"):
            s3_client(state.environment, **wrong).get_object(Bucket="ringflow", Key="a/b")
    with pytest.raises(ClientError, match=r"NoSuchBucket|AccessDenied"):
        client.put_object(Bucket="misspelled", Key="a", Body=b"")
    assert modes.S_IMODE((home / "s3.json").stat().st_mode) == 0o600


@pytest.mark.slow
def test_ray_starts_again_on_the_same_port(home: Path) -> None:
    first = embedded.up(home, only=("ray",), deadline_s=280)
    embedded.down(home)
    second = embedded.up(home, only=("ray",), deadline_s=280)
    assert second.environment["RAY_ADDRESS"] == first.environment["RAY_ADDRESS"]
    assert {service.name: service.state for service in embedded.status(home)}["ray"] == "healthy"


def test_readable_credentials_are_refused(home: Path) -> None:
    embedded.up(home, only=S3_ONLY)
    (home / "credentials.json").chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        embedded.environment(home)


def test_a_stale_pid_of_another_process_is_neither_trusted_nor_ended(home: Path) -> None:
    embedded.up(home, only=S3_ONLY)
    embedded.down(home)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
    try:
        state = home_files.read_state(home)
        state["services"]["s3"] = {"pid": bystander.pid, "started": "another-boot:1", "digest": "x", "since": 0.0}
        home_files.write_state(home, state)
        assert {service.name: service.state for service in embedded.status(home)}["s3"] == "stopped"
        assert pid_of(embedded.up(home, only=S3_ONLY), "s3") != bystander.pid
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_lost_state_file_loses_no_process(home: Path) -> None:
    first = pid_of(embedded.up(home, only=S3_ONLY), "s3")
    (home / "state.json").write_text("{ half a fi", encoding="utf-8")
    second = pid_of(embedded.up(home, only=S3_ONLY), "s3")
    assert first != second
    assert {process.pid for process in leftovers(home)} == {second}


def test_a_taken_port_is_left_to_its_owner_and_named(home: Path) -> None:
    before = embedded.up(home, only=S3_ONLY)
    embedded.down(home)
    port = home_files.read_state(home)["ports"]["s3"]
    with socket.create_server(("127.0.0.1", port)):
        after = embedded.up(home, only=S3_ONLY)
        assert [note for note in after.notes if str(port) in note]
        assert after.environment["AWS_ENDPOINT_URL"] != before.environment["AWS_ENDPOINT_URL"]
    assert s3_client(after.environment).list_objects_v2(Bucket="ringflow")["KeyCount"] == 0


def test_a_server_that_ends_at_its_start_shows_its_last_words(home: Path) -> None:
    home_files.prepare(home)
    (home / "s3").rmdir()
    (home / "s3").symlink_to("/proc/version")  # not a directory, so the server refuses it
    with pytest.raises((InfrastructureError, BadInput)) as caught:
        embedded.up(home, only=S3_ONLY, deadline_s=30)
    assert "s3" in str(caught.value)
    assert leftovers(home) == set()


def test_two_ups_at_once_start_one_server(home: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from infra import stack; stack.up(sys.argv[1], only=('s3',))",
        str(home),
    ]
    racers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for racer in racers:
        _, errors = racer.communicate(timeout=120)
        assert racer.returncode == 0, errors
    assert len(leftovers(home)) == 1


def test_a_held_lock_is_waited_for_and_then_named(home: Path) -> None:
    home_files.prepare(home)
    with (
        home_files.locked(home, deadline_s=1),
        pytest.raises(DeadlineExceeded, match=rf"process {os.getpid()}"),
        home_files.locked(home, deadline_s=0.2),
    ):
        pytest.fail("the lock was given twice")


# Without any server.


@pytest.mark.parametrize("ending", ["file", "file/below"])
def test_a_home_that_cannot_be_one_is_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="RINGFLOW_HOME"):
        embedded.up(tmp_path / ending)


@pytest.mark.fault("full disk", "when the stack starts (errno injected)", "named, nothing started")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_files, "MINIMUM_FREE_BYTES", 1 << 60)
    with pytest.raises(InfrastructureError, match="MiB are free"):
        embedded.up(tmp_path / "home")


def test_before_the_first_up_the_way_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ringflow up"):
        embedded.environment(tmp_path)
    assert {service.state for service in embedded.status(tmp_path)} == {"stopped"}
    assert embedded.down(tmp_path) == []


def test_the_cluster_profile_starts_nothing_and_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: f"value-of-{name}" for name in ENDPOINTS}
    monkeypatch.delenv("RINGFLOW_PROFILE")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    state = embedded.up(tmp_path / "home")
    assert state.profile == "cluster"
    assert not (tmp_path / "home").exists()
    assert {name: state.environment[name] for name in given} == given
    monkeypatch.setenv("RINGFLOW_PROFILE", "cluster")
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(BadInput, match="RAY_ADDRESS"):
        embedded.environment(tmp_path / "home")


def test_ray_gets_a_short_directory_for_a_long_home(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    home_files.prepare(deep)
    short = home_files.ray_directory(deep)
    try:
        assert len(str(short)) <= home_files.LONGEST_RAY_DIRECTORY
        assert short.resolve() == deep / "ray"
    finally:
        short.unlink()


def test_members_are_found_after_their_leader_was_killed(tmp_path: Path) -> None:
    mark = processes.mark_of(tmp_path, "s3")
    child = "import time; time.sleep(99)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(99)"
    leader = processes.start(
        [sys.executable, "-c", code],
        environment={**os.environ, processes.MARK: mark},
        log=tmp_path / "log",
        cwd=tmp_path,
    )
    give_up = time.monotonic() + 30
    while len(processes.members(mark, leader)) < 2 and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(leader.pid, signal.SIGKILL)
    assert len(processes.end({mark: leader})) >= 1
    assert processes.members(mark, leader) == set()
