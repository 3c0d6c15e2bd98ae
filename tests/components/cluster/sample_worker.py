"""A worker class small enough to watch: the tests start it in real Ray actors."""

from __future__ import annotations

import os
import sys
import tempfile
import time

from components.failures import Diverged


class SampleWorker:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def add(self, value: int) -> int:
        return self.offset + value

    def surroundings(self) -> dict[str, object]:
        return {
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "extra": os.environ.get("EXTRA"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "cores": sorted(os.sched_getaffinity(0)),
            "temporary": tempfile.mkdtemp(),
            "rank": os.environ["RINGFLOW_RANK"],
        }

    def die_if(self, offset: int) -> None:
        if offset == self.offset:
            print("disk is full, giving up", file=sys.stderr, flush=True)
            os._exit(7)
        time.sleep(60)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def diverge(self) -> None:
        raise Diverged("loss is NaN at step 3")

    def pid(self) -> int:
        return os.getpid()


class RefusingWorker:
    def __init__(self) -> None:
        raise Diverged("cannot start from these weights")
