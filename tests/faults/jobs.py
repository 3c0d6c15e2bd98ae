"""A world (tests.faults.mini) whose stages are Ray jobs; `python -m tests.faults.jobs -m tasks.job_main KEY` is one.

The second is what the test names as the interpreter of the jobs: it puts the toy stages in place first.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import psutil

from components.artifacts.lease import LeaseRecord
from components.artifacts.store import Store
from components.cluster.jobs import Jobs, JobState
from tests.faults.mini import World, wait_for

ROOT = Path(__file__).parents[2]


def interpreter(directory: Path) -> Path:
    """What is named as the interpreter of the jobs."""
    made = directory / "python"
    made.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.faults.jobs "$@"\n')
    made.chmod(0o755)
    return made


class JobWorld(World):
    """overrides: further ones."""

    def __init__(self, directory: Path, *overrides: str) -> None:
        super().__init__(directory)
        cluster = "execution.cluster"
        self.overrides += [f"{cluster}.stages=job", f"{cluster}.python={interpreter(directory)}"]
        self.overrides += [f"{cluster}.env.TOY_DIR={directory}", *overrides]
        self.jobs = Jobs.connect()

    def of(self, stage: str) -> list[JobState]:
        """The stage's jobs, the first attempt first."""
        return sorted(self.jobs.of(f"ringflow-{self.project}-{stage}-"), key=lambda job: job.id)

    def process_of(self, stage: str) -> psutil.Process:
        """The one process that does the stage's work."""
        found = [
            process
            for process in psutil.process_iter(["cmdline"])
            if f"{self.project}/{stage}/" in " ".join(process.info["cmdline"] or ())
            and "tasks.job_main" in process.info["cmdline"]
        ]
        assert len(found) == 1, found
        return found[0]

    def lease(self, stage: str) -> LeaseRecord:
        store = Store.open()
        (name,) = [name for name in store.objects.files(f"{self.project}/{stage}") if name.endswith("/_LEASE")]
        return LeaseRecord.model_validate_json(store.objects.read(f"{self.project}/{stage}/{name}").data)

    def unblock(self, stage: str) -> None:
        (self.directory / f"block-{stage}").unlink()

    def wait_ended(self, job: str, seconds: float = 150) -> JobState:
        wait_for(lambda: self.jobs.get(job).ended, seconds, f"the end of {job}")
        return self.jobs.get(job)

    def wait_said(self, text: str, seconds: float = 150) -> None:
        wait_for(lambda: text in self.log(), seconds, f"'{text}' in the log of the flow")


if __name__ == "__main__":
    from tests.flows import toy

    toy.install()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
