"""All tests: parts that lanes take one after another, the longest first. Every part is a process with its own servers.

Usage: python tests/run.py [PATH ...]; with paths, just those, in one process. RINGFLOW_TEST_LANES says how many parts
run side by side; by default one for each core and 8 GiB of memory, two at least, since most tests wait for servers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
C, FAULTS = "tests/components", "tests/faults"
# Longest first. Tests of one part share its servers and warm engines. A folder is run without what others name of it,
# so the last part is all that was not named.
PARTS: dict[str, Sequence[str]] = {
    "faults: servers": [f"{FAULTS}/test_{name}.py" for name in ("servers", "time_and_races", "jobs", "rayjobs")],
    "flows": ["tests/flows"],
    "e2e": ["tests/e2e"],
    "training": [f"{C}/training", f"{C}/model", f"{C}/cluster"],
    "tasks": ["tests/infra", "tests/tasks"],
    "faults: runs": [f"{FAULTS}/test_{name}.py" for name in ("damage", "kill_flow", "s3", "workers")],
    "faults: team": [f"{FAULTS}/test_team.py"],
    "rewards": [f"{C}/rewards", f"{C}/sandbox", f"{C}/release", f"{FAULTS}/hostile"],
    "rl": [f"{C}/rl", f"{C}/rollout"],
    "the rest": ["tests"],
}
GIB_A_LANE = 8
PART_DEADLINE_S = 45 * 60
STOP_S = 60


@dataclass
class Running:
    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, name: str) -> Running:
        output = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=10", *arguments(name)]
        return cls(name, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT), output)

    def ended(self) -> int | None:
        """Its exit code; a part that is over its deadline is stopped."""
        if self.process.poll() is None and time.monotonic() - self.began > PART_DEADLINE_S:
            self.stop()
        return self.process.poll()

    def stop(self, told: bool = False) -> None:
        """As Ctrl-C does it, so that its servers end too. told: it was Ctrl-C, which reached every part already."""
        if not told:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace")


def arguments(name: str) -> list[str]:
    """For pytest: the paths of a part, and what below them belongs to another."""
    paths = [Path(path) for path in PARTS[name]]
    others = [Path(path) for part, named in PARTS.items() if part != name for path in named]
    inside = [path for path in others if any(own in path.parents for own in paths)]
    return [*map(str, paths), *(f"--ignore={path}" for path in inside)]


def lanes() -> int:
    if given := os.environ.get("RINGFLOW_TEST_LANES"):
        return max(1, int(given))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return max(2, min(len(os.sched_getaffinity(0)), gib // GIB_A_LANE))


def run() -> int:
    """0 when every part passed."""
    began, waiting, running, done = time.monotonic(), list(PARTS), [], []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    width = lanes()
    print(f"{len(PARTS)} parts in {width} lanes; what a part says is shown when it has ended", flush=True)
    try:
        while waiting or running:
            while waiting and len(running) < width:
                running.append(Running.start(waiting.pop(0)))
            for part in [part for part in running if part.ended() is not None]:
                running.remove(part)
                took = time.monotonic() - part.began
                done.append((part.name, took, part.process.returncode))
                print(f"\n---- {part.name}: {' '.join(PARTS[part.name])}\n{part.text()}", flush=True)
                rest = f", {len(waiting)} waiting" if waiting else ""
                print(f"---- {part.name} took {took:.0f} s; {len(running)} at work{rest}", flush=True)
            time.sleep(0.2)
    finally:
        told = sys.exc_info()[0] is KeyboardInterrupt
        for part in running:
            part.stop(told)
            print(f"\n---- {part.name}, stopped:\n{part.text()[-4000:]}", flush=True)
    print()
    for name, took, code in done:
        print(f"{name:20} {took:6.0f} s  {'passed' if code == 0 else f'FAILED ({code})'}")
    failed = [name for name, _, code in done if code]
    print(f"{time.monotonic() - began:.0f} s in all; {', '.join(failed) + ' failed' if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:]:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
    sys.exit(run())
