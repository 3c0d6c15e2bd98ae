"""Which failure kind an exception is, and whether the stage may be tried again."""

from __future__ import annotations

import errno

from components.failures import InfrastructureError, RingflowError
from components.redact import redacted

LONGEST_DELAY_S = 300.0
MOST_RETRIES = 50  # Prefect's own limit
JITTER = 0.5

# Checked by name so that neither Ray nor HTTP clients are imported to tell an error from another.
INFRASTRUCTURE = {
    "ray.exceptions": {
        "ActorDiedError",
        "ActorUnavailableError",
        "GetTimeoutError",
        "NodeDiedError",
        "ObjectLostError",
        "OwnerDiedError",
        "RayActorError",
        "RaySystemError",
        "WorkerCrashedError",
    },
    "httpx": {"ConnectError", "ConnectTimeout", "PoolTimeout", "ReadError", "ReadTimeout", "RemoteProtocolError"},
    "requests.exceptions": {"ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout"},
}


def classify(error: BaseException) -> BaseException:
    """The error as ringflow speaks of it: itself, or an InfrastructureError that says which machine part failed."""
    if isinstance(error, RingflowError):
        return error
    for kind in type(error).__mro__:
        if kind.__name__ in INFRASTRUCTURE.get(kind.__module__, ()):
            return InfrastructureError(f"{kind.__name__}: {first_lines(error)}")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return InfrastructureError(f"{type(error).__name__}: {first_lines(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfrastructureError(f"the disk is full at {error.filename or 'the working directory'}: free some space")
    if isinstance(error, Exception) and redacted(str(error)) != str(error):
        # Prefect keeps the text of what a stage raises, and so do the report and MLflow.
        return RingflowError(f"{type(error).__name__}: {error}")
    return error


def retryable(error: BaseException) -> bool:
    """Only failures of the machinery are tried again; wrong input, divergence and taken leases stay as they are."""
    return isinstance(error, InfrastructureError)


def retry_delays(retries: int, first_s: float) -> list[float]:
    """Seconds before each retry: doubling from `first_s`, none longer than LONGEST_DELAY_S, at most MOST_RETRIES.

    Prefect adds jitter of up to half of each, so that stages which failed together do not come back together.
    """
    return [min(max(first_s, 0.01) * 2**number, LONGEST_DELAY_S) for number in range(min(retries, MOST_RETRIES))]


def first_lines(error: BaseException, lines: int = 3) -> str:
    text = redacted(str(error)).strip() or type(error).__name__
    return " ".join(line.strip() for line in text.splitlines()[:lines])
