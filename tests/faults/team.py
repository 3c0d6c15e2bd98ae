"""The servers of a team on one machine without Docker: Debian's PostgreSQL, two S3 keys, two Ray nodes, a worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psutil

from infra.stack import processes
from infra.stack.ports import choose
from infra.stack.services import program
from tests.faults.mini import wait_for

ROOT = Path(__file__).parents[2]
# Whoever kills the tests kills their servers too.
ENDS_WITH_US = ["setpriv", "--pdeathsig", "TERM"]
INSTALLED = Path("/usr/lib/postgresql")
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
PASSWORD = "only@on:loopback/"  # of a database that lives as long as its test
STEPS, EVERY, TURN = 8, 3, 6  # of the stage whose node dies in the midst of step TURN, three after a resume point
CREATES = "sudo -u postgres create"


def postgres_programs() -> Path | None:
    """Debian's directory of initdb and postgres, the newest version, or None."""
    return max(INSTALLED.glob("*/bin/initdb")).parent if has_postgres() else None


def has_postgres() -> bool:
    return any(INSTALLED.glob("*/bin/initdb"))


class Postgres:
    """A PostgreSQL of its own in `directory`, as Debian sets one up, with the databases that docs/cluster.md makes."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory / "postgres", choose(())
        self.url = f"postgresql://ringflow:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}"
        self.programs = postgres_programs()
        # Debian's package has made this user; the server refuses to be run by root.
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        self.directory.mkdir()
        if self.user:
            shutil.chown(self.directory, "postgres", "postgres")
            directory.chmod(0o711)
        # By the socket whoever is its user of that name, over TCP with the password.
        socket = "peer" if self.user else "trust"
        how = ["-U", "postgres", f"--auth-local={socket}", "--auth-host=scram-sha-256", "--no-sync"]
        self._do([*self.user, str(self.programs / "initdb"), "-D", self._data(), *how])
        self.process = subprocess.Popen(
            [*ENDS_WITH_US, *self.user, *ENDS_WITH_US, str(self.programs / "postgres"), "-D", self._data(),
             "-p", str(self.port), "-h", "127.0.0.1", "-c", f"unix_socket_directories={self.directory}",
             "-c", "fsync=off"],
            stdout=(directory / "postgres.log").open("w"), stderr=subprocess.STDOUT, cwd="/",
        )  # fmt: skip
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        ready = [self.programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        wait_for(lambda: subprocess.run(ready, timeout=10).returncode == 0, 30, "PostgreSQL's start")
        lines = [line.strip() for line in (ROOT / "docs/cluster.md").read_text().splitlines() if CREATES in line]
        assert [line.split()[3] for line in lines] == ["createuser", "createdb", "createdb"], lines
        # `sudo` may not be installed, and would drop the variables that lead Debian's commands to this server.
        sudo = self.directory.parent / "sudo"
        sudo.write_text(f'#!/bin/sh\n[ "$1 $2" = "-u postgres" ] && shift 2 && exec {" ".join(self.user)} "$@"\n')
        sudo.chmod(0o755)
        path = f"{sudo.parent}:{os.environ['PATH']}"
        for line in lines:
            self._do(
                ["sh", "-c", line], f"{PASSWORD}\n" * 2, PATH=path, PGHOST=str(self.directory), PGPORT=str(self.port)
            )

    def _data(self) -> str:
        return str(self.directory / "data")

    def _do(self, command: list[str], said: str = "", **variables: str) -> None:
        # In a session without a terminal, or it is the terminal that is asked for the password.
        done = subprocess.run(
            command, input=said, env={**os.environ, **variables}, start_new_session=True,
            capture_output=True, text=True, timeout=60, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, database: str, query: str) -> str:
        done = subprocess.run(
            [str(self.programs / "psql"), f"{self.url}/{database}", "-Atc", query],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)  # fast shutdown
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Program:
    """A server in a session of its own, ended or killed with everything it started."""

    def __init__(self, directory: Path, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.mark, self.log = f"{name}@{directory}", directory / f"{name}.log"
        variables = {**os.environ, **environment, processes.MARK: self.mark}
        self.leader = processes.start([*ENDS_WITH_US, *command], environment=variables, log=self.log, cwd=ROOT)

    def kill(self) -> int:
        """SIGKILL for all of it at once, as when a machine loses its power; how many processes that were."""
        found = processes.members(self.mark, self.leader)
        for member in found:
            psutil.Process(member.pid).kill()
        wait_for(lambda: not processes.alive(self.leader), 10, f"the end of {self.mark}")
        return len(found)

    def close(self) -> None:
        processes.end({self.mark: self.leader}, grace_s=0)  # nothing here is worth a farewell

    def wait(self, sign: str, seconds: float) -> None:
        def seen() -> bool:
            text = self.log.read_text(errors="replace")
            assert processes.alive(self.leader), text[-3000:]
            return sign in text

        wait_for(seen, seconds, f"'{sign}' in {self.log}")


def ray_head(directory: Path, port: int, environment: dict[str, str]) -> Program:
    command = [program("ray"), "start", "--head", f"--node-ip-address={HEAD}", f"--port={port}", "--num-cpus=1"]
    more = ["--include-dashboard=false", f"--temp-dir={directory / 'ray'}", *_common()]
    return Program(directory, "head", [*command, *more], environment)


def ray_second(directory: Path, address: str, environment: dict[str, str]) -> Program:
    command = [program("ray"), "start", f"--address={address}", f"--node-ip-address={SECOND}", "--num-cpus=1"]
    return Program(directory, "second", [*command, *_common()], environment)


def _common() -> list[str]:
    return ["--disable-usage-stats", "--object-store-memory=100000000", "--block"]


def occupant(directory: Path, environment: dict[str, str]) -> Program:
    """Somebody else's job, which has the head's core: what is started meanwhile goes to the second node."""
    script = f"""
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, resources={{"node:{HEAD}": 0.01}})
class Busy:
    def hold(self): return "holds the head"
busy = Busy.remote()
print(ray.get(busy.hold.remote(), timeout=60), flush=True)
time.sleep(600)
"""
    return Program(directory, "occupant", [sys.executable, "-c", script], environment)


def worker(directory: Path, environment: dict[str, str]) -> Program:
    command = [sys.executable, "-m", "infra.prefect_worker", "--no-prompt", "worker", "start", "--pool", "ringflow"]
    asks_often = {"PREFECT_WORKER_QUERY_SECONDS": "1"}  # every 10 s by default
    command += ["--type", "process", "--limit", "1", "--install-policy", "never"]
    return Program(directory, "worker", command, environment | asks_often)


def since(began: float) -> float:
    return round(time.monotonic() - began, 1)
