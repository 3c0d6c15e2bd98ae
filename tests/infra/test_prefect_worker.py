"""A run that is to be retried while its process ends waits; Prefect's own worker ends of it."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import anyio
import pytest
from prefect.workers.process import ProcessWorker

from infra.prefect_worker import let_retries_wait


class Patient(ProcessWorker):
    type = "patient"


let_retries_wait(Patient)


def look(kind: type[ProcessWorker], again: bool) -> list:
    """What the worker submits of one scheduled run, whose process has not ended yet (or another one's has not)."""

    async def submit() -> list:
        worker = kind(work_pool_name="none", limit=1)
        worker._limiter = anyio.CapacityLimiter(1)
        run = SimpleNamespace(id=uuid.uuid4())
        worker._limiter.acquire_on_behalf_of_nowait(run.id if again else uuid.uuid4())
        return await worker._submit_scheduled_flow_runs(flow_run_response=[SimpleNamespace(flow_run=run)])

    return anyio.run(submit)


def test_a_retry_waits_for_the_end_of_the_process_before_it() -> None:
    with pytest.raises(RuntimeError, match="already holding"):  # when this passes, our worker is not needed any more
        look(ProcessWorker, again=True)
    assert look(Patient, again=True) == []
    assert look(Patient, again=False) == []
