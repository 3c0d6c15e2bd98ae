"""The `prefect` command with a worker that survives a Retry.

Prefect 3.7's worker with a limit counts a run by its id until the run's process has ended. A Retry pressed in the
seconds between a run's failure and the end of its process brings the same id back, and the worker ends with "this
borrower is already holding one of this CapacityLimiter's tokens" (BaseWorker._submit_scheduled_flow_runs):
nothing that is scheduled would start any more. Here such a run waits in the queue until its process is gone.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect.workers.base import BaseWorker


def let_retries_wait(worker: type[BaseWorker]) -> None:
    """Makes workers of this kind leave out scheduled runs whose earlier process has not ended yet."""
    submit = worker._submit_scheduled_flow_runs

    async def _submit_scheduled_flow_runs(self: Any, flow_run_response: list[Any]) -> list[Any]:
        held = self._limiter.statistics().borrowers if self._limiter else ()
        return await submit(self, [entry for entry in flow_run_response if entry.flow_run.id not in held])

    worker._submit_scheduled_flow_runs = _submit_scheduled_flow_runs


def main() -> int:
    from prefect.cli import app

    let_retries_wait(BaseWorker)
    return app()


if __name__ == "__main__":
    sys.exit(main())
