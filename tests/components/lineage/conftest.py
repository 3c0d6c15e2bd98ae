"""A real MLflow server on loopback with SQLite, one for the session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import pytest

from components.artifacts.fingerprint import fingerprint_of, identity_of, input_identity
from components.artifacts.lease import Lease
from components.artifacts.manifest import Provenance
from components.artifacts.store import Store
from components.lineage.tracker import Tracker

START_DEADLINE_S = 300


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory):
    home = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    with open(home / "log", "wb") as output:
        # Its own process group: the server starts workers of its own, which must end with it.
        # As in the stack: job execution would be several more processes.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"mlflow server did not start:\n{(home / 'log').read_text()[-2000:]}") from None
                time.sleep(0.5)
        yield uri
    finally:
        os.killpg(process.pid, 9)
        process.wait(10)


@pytest.fixture
def tracker(mlflow_uri) -> Tracker:
    """A tracker on an experiment of its own."""
    return Tracker.open(mlflow_uri, f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def store(tmp_path) -> Store:
    opened = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    opened.check(5, create=True)
    return opened


@pytest.fixture
def publish(store, tmp_path):
    """publish(stage, kind, config, inputs, files, **options) -> ArtifactRef of a really committed artifact."""

    def make(
        stage,
        kind,
        config=None,
        inputs=None,
        files=None,
        summary=None,
        contract=None,
        project="p",
        values=None,
        **made_by,
    ):
        inputs = inputs or {}
        digests = {name: input_identity(ref.fingerprint, ref.manifest_sha256) for name, ref in inputs.items()}
        who = identity_of(stage, 1, config or {}, digests, 0)
        directory = tmp_path / f"out-{uuid.uuid4().hex}"
        directory.mkdir()
        for name, text in (files or {"file": stage}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        made = Provenance(
            **{
                "created": "2026-01-01T00:00:00+00:00",
                "host": "here",
                "seed": 0,
                "inputs": inputs,
                "config": values or {},
                **made_by,
            }
        )
        with Lease.acquire(store, project, stage, fingerprint_of(who), wait_s=5) as lease:
            return store.publish(lease, directory, kind, who, made, contract, summary)

    return make
