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
from tasks.outcome import classify, retryable


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
