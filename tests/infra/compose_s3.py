"""The S3 services of infra/compose.yaml in this process's network namespace: `python -m tests.infra.compose_s3 DIR`.

It needs a namespace of its own (`unshare --net`), since the ports are those of the compose file. Prints as JSON which
addresses listen, and what S3 answers on an address that is not the servers' own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from infra.stack import probes
from infra.stack.services import program

ROOT = Path(__file__).parents[2]
# Stands for the container's address: what listens on 127.0.0.1 does not answer there.
OUTER = "127.0.0.5"
KEY, SECRET = "compose-key", "compose-secret"
DEADLINE_S = 90
SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41


def commands(directory: Path) -> list[list[str]]:
    """As in the compose file, with this environment's programs and the container's files in `directory`."""
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    identities = compose["configs"]["identities"]["content"]
    for owner, prefix in (("STORE", ""), ("MLFLOW", "mlflow-")):
        identities = identities.replace(f"${{{owner}_ACCESS_KEY_ID:?}}", prefix + KEY)
        identities = identities.replace(f"${{{owner}_SECRET_ACCESS_KEY:?}}", prefix + SECRET)
    (directory / "s3.json").write_text(identities)
    (directory / "data").mkdir()
    places = {"/etc/s3.json": str(directory / "s3.json"), "/data": str(directory / "data")}
    found = []
    for name in ("s3", "s3-store"):
        first, *rest = compose["services"][name]["command"]
        for inside, outside in places.items():
            rest = [each.replace(inside, outside) for each in rest]
        found.append([program(first), *rest])
    return found


def loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))


def put(host: str, bucket: str, prefix: str = "") -> str:
    """ok, or why not."""
    try:
        probes.s3(f"http://{host}:8333", bucket, prefix + KEY, prefix + SECRET, "us-east-1", timeout_s=5)
    except probes.Unhealthy as error:
        return str(error)
    return "ok"


def main(directory: Path) -> None:
    loopback_up()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}
    with (directory / "log").open("w") as log:
        servers = [
            subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *each], env=variables, cwd=ROOT, stdout=log, stderr=log)
            for each in commands(directory)
        ]
    try:
        ends = time.monotonic() + DEADLINE_S
        while (answer := put(OUTER, "ringflow")) != "ok" or put(OUTER, "mlflow", "mlflow-") != "ok":
            assert time.monotonic() < ends, answer
            time.sleep(0.2)
        listening = {c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        answering = []
        for port in sorted({address.port for address in listening}):
            with contextlib.suppress(OSError), socket.create_connection((OUTER, port), 5):
                answering.append(port)
        refused = {"with the other's key": put(OUTER, "mlflow"), "with none": put(OUTER, "ringflow", "un")}
        print(json.dumps({"listening": sorted(listening), "answering": answering, "refused": refused}))
    finally:
        for server in servers:
            server.kill()
            server.wait(10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
