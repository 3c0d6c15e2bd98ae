"""What a pod runs before it ends: the process of a stage is told, and waited for."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROCESS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep({takes}), sys.exit(0)))
print("ready", flush=True)
time.sleep(60)
"""


def start(key: str, takes_s: float) -> subprocess.Popen:
    """Looks like a stage's process, and needs so long to end."""
    command = [sys.executable, "-c", PROCESS.format(takes=takes_s), "-m", "tasks.job_main", key]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def stop(key: str, seconds: float) -> tuple[int, float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "tasks.job_stop", key, str(seconds)]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode, time.monotonic() - began


def test_it_tells_one_stage_waits_for_it_and_gives_up_in_time() -> None:
    keys = [f"demo/rlvr/{uuid.uuid4().hex}.json" for _ in range(3)]
    quick, slow, other = (start(key, takes) for key, takes in zip(keys, (0.2, 30, 0), strict=True))
    try:
        assert stop(keys[0], 20)[0] == 0
        assert quick.wait(1) == 0
        code, took = stop(keys[1], 0.5)
        assert code == 1
        assert took < 20
        assert slow.poll() is None
        assert other.poll() is None
        assert stop("demo/rlvr/nobody.json", 1)[0] == 0
    finally:
        for process in (quick, slow, other):
            process.kill()
            process.wait()
