"""Ray's Jobs API: a process that Ray starts on a node, watches, and that outlives whoever asked for it.

Ray's own client, with what it lacks: every request has a deadline, and failures are ringflow's kinds. Jobs are told
apart by a submission id that the submitter chooses; Ray takes each id once, so of two that submit the same one exactly
one wins. The log is followed over a websocket; after a cut it is read from its beginning, and what was seen is skipped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from components.cluster.following import Following
from components.failures import BadInput, InfrastructureError
from components.recipe.cluster import JobResources
from components.recipe.secrets import refuse_in_address

log = logging.getLogger(__name__)

VARIABLE = "RAY_API_SERVER_ADDRESS"
# The first submission to a head makes it start a driver of its own, ten seconds on a busy machine.
CONNECT_S, ANSWER_S = 5.0, 60.0
RECONNECT_S = 2.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
GIB = 1 << 30


@dataclass(frozen=True)
class JobState:
    """status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. message: Ray's; of a failed job its last log lines.

    about: what its submitter said of it.
    """

    id: str
    status: str
    message: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Jobs:
    """Thread-safe. Made by `connect`."""

    def __init__(self, address: str) -> None:
        import requests
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):
            def _do_request(self, *arguments: Any, **named: Any) -> requests.Response:
                return super()._do_request(*arguments, timeout=(CONNECT_S, ANSWER_S), **named)

        self.address = address
        token = os.environ.get("RAY_AUTH_TOKEN", "") if os.environ.get("RAY_AUTH_MODE") == "token" else ""
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._client: Any = self._ask("the API", lambda: Client(address, headers=headers))

    @classmethod
    def connect(cls) -> Jobs:
        """The API that RAY_API_SERVER_ADDRESS names.

        Raises BadInput without an address or with a token that is refused, InfrastructureError without an answer.
        """
        address = os.environ.get(VARIABLE, "").rstrip("/")
        refuse_in_address(address, VARIABLE, "Ray's token is RAY_AUTH_TOKEN")
        if not address.startswith(("http://", "https://")):
            raise BadInput(
                "stages as jobs need the address of Ray's Jobs API",
                where=f"{VARIABLE}={address}",
                remedy="On this machine: ringflow up --jobs. On a cluster: http(s)://head:8265",
            )
        return cls(address)

    def of(self, prefix: str) -> list[JobState]:
        """Every job whose id begins so, in no order."""
        found = self._ask("the list of jobs", lambda: self._client.list_jobs())
        return [_state(each) for each in found if (each.submission_id or "").startswith(prefix)]

    def get(self, job: str) -> JobState | None:
        """None when Ray does not know it (any more): its head was replaced."""
        try:
            return _state(self._ask(f"job {job}", lambda: self._client.get_job_info(job)))
        except InfrastructureError as error:
            if "does not exist" in str(error):
                return None
            raise

    def submit(
        self, job: str, command: str, env: Mapping[str, str], resources: JobResources, about: Mapping[str, str]
    ) -> bool:
        """Starts it; False when there is one of this id, whoever's.

        An answer that was lost leaves open which: InfrastructureError, and the next look finds the job if it is there.
        """
        reserved = {
            "entrypoint_num_cpus": resources.cpus or None,
            "entrypoint_num_gpus": resources.gpus or None,
            "entrypoint_memory": int(resources.memory_gib * GIB) or None,
            "entrypoint_resources": dict(resources.custom) or None,
        }
        try:
            self._ask(
                f"job {job}",
                lambda: self._client.submit_job(
                    entrypoint=command,
                    submission_id=job,
                    runtime_env={"env_vars": dict(env)},
                    metadata=dict(about),
                    **reserved,
                ),
            )
        except InfrastructureError as error:
            if "already exists" in str(error):
                return False
            raise
        return True

    def stop(self, job: str) -> None:
        """Asks it to end: SIGTERM, and SIGKILL after what RAY_JOB_STOP_WAIT_TIME_S of its environment says."""
        self._ask(f"the stop of job {job}", lambda: self._client.stop_job(job))

    def follow(self, job: str) -> Following:
        return JobLog(self._client, job)

    def _ask(self, what: str, call: Any) -> Any:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return call()
        except AuthenticationError as error:
            raise BadInput(
                "Ray's Jobs API refused the token", where=self.address, remedy="RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from error
        except (RuntimeError, ConnectionError, requests.exceptions.RequestException) as error:
            text = str(error) or type(error).__name__
            raise InfrastructureError(f"Ray's Jobs API at {self.address}, {what}: {text[-2000:]}") from error


def _state(details: Any) -> JobState:
    return JobState(details.submission_id, str(details.status.value), details.message or "", details.metadata or {})


class JobLog(Following):
    def __init__(self, client: Any, job: str) -> None:
        super().__init__(job)
        self._client = client

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._tail())
                # Ray ends the connection when the job has ended, and also when a part of it was started again.
                if str(self._client.get_job_info(self._job).status.value) in ENDED:
                    break
            except Exception as error:  # aiohttp's, or Ray's RuntimeError for a connection that was cut
                log.debug("the log of %s is not followed: %s", self._job, error)
            self._stop.wait(RECONNECT_S)

    async def _tail(self) -> None:
        seen = 0
        lines = aiter(self._client.tail_job_logs(self._job))
        while not self._stop.is_set():
            step = asyncio.ensure_future(anext(lines, None))
            while not step.done():
                await asyncio.wait([step], timeout=0.5)
                if self._stop.is_set():
                    step.cancel()
                    return
            chunk = step.result()
            if chunk is None:
                return
            new = chunk[max(self._read - seen, 0) :]
            seen += len(chunk)
            self._take(new)


def wait_ended(jobs: Jobs, job: str, seconds: float) -> bool:
    """Whether the job ended in time (or Ray forgot it)."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with suppress(InfrastructureError):
            state = jobs.get(job)
            if state is None or state.ended:
                return True
        time.sleep(0.3)
    return False
