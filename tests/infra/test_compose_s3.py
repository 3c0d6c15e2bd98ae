"""compose's S3 lets nobody past the keys, and the forwarder in front of it loses no byte."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.forward import BUFFER_BYTES, address, forward
from infra.stack.ports import choose

ROOT = Path(__file__).parents[2]
LISTENING = 2  # the server's socket and the forwarder's
ALONE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]


@pytest.mark.skipif(
    subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0, reason="no network namespaces here"
)
@pytest.mark.timeout(180)
def test_nothing_but_s3_answers_on_the_services_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ALONE, sys.executable, "-m", "tests.infra.compose_s3", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    said = json.loads(done.stdout.splitlines()[-1])
    outer = [entry for entry in said["listening"] if entry[0] != "127.0.0.1"]
    assert outer == [["0.0.0.0", 8333]]
    assert said["answering"] == [8333]
    assert {8888, 18888, 18334, 19333} <= {port for _, port in said["listening"]}  # the filer and gRPC are there
    assert all("403" in answer for answer in said["refused"].values()), said["refused"]


def test_bytes_pass_both_ways_and_the_end_of_one_leaves_the_other_open() -> None:
    sent = os.urandom(4 * BUFFER_BYTES)

    async def talk() -> tuple[bytes, bytes]:
        here, there = _two_ports()
        files = psutil.Process().num_fds()
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await reader.read())  # up to the end that the client made
            writer.write(sent[::-1])
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", there), _forwarding(here, there):
            reader, writer = await _connect(here)
            writer.write(sent)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            while psutil.Process().num_fds() > files + LISTENING:  # until both connections are gone
                await asyncio.sleep(0.05)
            return await heard, answer

    heard, answer = asyncio.run(asyncio.wait_for(talk(), 60))
    assert heard == sent
    assert answer == sent[::-1]


def test_who_does_not_read_stops_who_sends() -> None:
    async def talk() -> int:
        here, there = _two_ports()
        passed = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal passed
            block = bytes(1024**2)
            for _ in range(64):
                writer.write(block)
                await writer.drain()
                passed += len(block)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", there), _forwarding(here, there):
            reader, writer = await _connect(here, limit=1024)
            await asyncio.sleep(0.5)
            stopped = passed
            total = 0
            while block := await reader.read(1024**2):
                total += len(block)
            assert total == passed == 64 * 1024**2
            writer.close()
            return stopped

    assert asyncio.run(asyncio.wait_for(talk(), 60)) < 48 * 1024**2


def test_a_server_that_is_away_ends_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    async def talk() -> bytes:
        here, there = _two_ports()
        async with _forwarding(here, there):
            reader, writer = await _connect(here)
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

    assert asyncio.run(asyncio.wait_for(talk(), 30)) == b""
    assert "Connect call failed" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", ["8333", ":8333", "s3:", "s3:http"])
def test_an_address_needs_a_host_and_a_port(wrong: str) -> None:
    with pytest.raises(SystemExit, match="is not HOST:PORT"):
        address(wrong)


class _forwarding:
    def __init__(self, here: int, there: int) -> None:
        self.ports = here, there

    async def __aenter__(self) -> None:
        here, there = self.ports
        self.task = asyncio.create_task(forward(("127.0.0.1", here), ("127.0.0.1", there)))

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def _two_ports() -> tuple[int, int]:
    first = choose(())
    return first, choose((first,))


async def _connect(port: int, **limits: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for _ in range(100):
        try:
            return await asyncio.open_connection("127.0.0.1", port, **limits)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")
