"""Which exception is which failure kind: only failures of the machinery are tried again."""

from __future__ import annotations

import errno

import httpx
import pytest
from ray.exceptions import GetTimeoutError

from components.failures import (
    BadInput,
    Cancelled,
    DeadlineExceeded,
    Diverged,
    InfrastructureError,
    IntegrityError,
    LeaseExpired,
    LeaseLost,
)
from tasks.outcome import LONGEST_DELAY_S, MOST_RETRIES, classify, retry_delays, retryable


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (InfrastructureError("a worker died"), True),
        (DeadlineExceeded("no answer"), True),
        (ConnectionRefusedError("no server"), True),
        (TimeoutError("slow"), True),
        (GetTimeoutError("an actor is stuck"), True),
        (httpx.ConnectError("no server"), True),
        (OSError(errno.ENOSPC, "No space left on device", "/scratch/x"), True),
        (BadInput("wrong", where="a.jsonl:3: answer"), False),
        (Diverged("NaN"), False),
        (LeaseLost("taken"), False),
        (LeaseExpired("the store was away"), True),
        (IntegrityError("other bytes"), False),
        (Cancelled("stopped"), False),
        (ValueError("a defect"), False),
        (FileNotFoundError("a defect too"), False),
    ],
)
def test_retry_follows_the_failure_kind(error: Exception, again: bool) -> None:
    assert retryable(classify(error)) is again


def test_a_full_disk_names_the_place() -> None:
    assert "/scratch/x" in str(classify(OSError(errno.ENOSPC, "No space left on device", "/scratch/x")))


def test_retries_back_off_and_are_bounded() -> None:
    assert retry_delays(0, 2.0) == []
    assert retry_delays(4, 2.0) == [2.0, 4.0, 8.0, 16.0]
    assert retry_delays(2, 0.0) == [0.01, 0.02]
    longest = retry_delays(1000, 2.0)
    assert len(longest) == MOST_RETRIES
    assert max(longest) == LONGEST_DELAY_S


def test_the_stage_task_has_these_delays_and_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Prefect's own task object, as the runner submits it."""
    from types import SimpleNamespace

    from components.recipe.execution import ExecutionConfig
    from tasks import runner

    submitted = []
    monkeypatch.setattr("prefect.tasks.Task.submit", lambda task, *_: submitted.append(task))
    node = SimpleNamespace(name="sft", stage=SimpleNamespace(type="sft"))
    for retries in (3, 0):
        runner.submit_stage(node, SimpleNamespace(execution=ExecutionConfig(retries=retries)), {})
    assert submitted[0].retries == 3
    assert list(submitted[0].retry_delay_seconds) == [2.0, 4.0, 8.0]
    assert submitted[0].retry_jitter_factor == 0.5
    assert submitted[0].retry_condition_fn is not None
    assert submitted[1].retries == 0
