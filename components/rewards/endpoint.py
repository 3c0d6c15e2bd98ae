"""Requests to an OpenAI-compatible endpoint: what another try may change, how long to wait for it, when to give up.

Judges of rewards and samplers of evaluations ask in the same way. Rate limits, 5xx, broken connections, late and
unreadable answers are failures of the machine: retried with exponential back-off and jitter, or as late as the endpoint
asks for, under one deadline. Any other refusal says that the request is wrong: no retry helps.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.redact import remember

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_PAUSE_S = 20.0


class Unreadable(Exception):
    """An answer of status 200 that is not what was asked for: another try may bring it."""


def authorization(variable: str, what: str) -> dict[str, str]:
    """The header with the key that the environment variable holds; none where no variable is named.

    Raises:
        BadInput: it is empty.
    """
    if not variable:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise BadInput(f"the environment variable with the {what} is empty", where=variable)
    remember(key)  # an endpoint may repeat it in the text of a refusal
    return {"Authorization": f"Bearer {key}"}


def answered(
    call: Callable[[float], httpx.Response],
    read: Callable[[httpx.Response], T],
    *,
    who: str,
    where: str,
    retries: int,
    deadline_s: float,
    ended: threading.Event,
    before: Callable[[], None] = lambda: None,
) -> tuple[T, int]:
    """(what `read` makes of the answer, how many tries it took).

    Args:
        call: one request, given the seconds that are left. read: raises Unreadable where another try may help.
        who, where: for the messages. ended: set when nobody waits for the answer any more.
        before: called before every try; what it raises ends them.
    Raises:
        BadInput: the endpoint refuses the request.
        InfrastructureError: as many tries as allowed failed, or `ended` was set. DeadlineExceeded: the time is over.
    """
    ends = time.monotonic() + deadline_s
    problem, tries = "no time left", 0
    for attempt in range(1, retries + 2):
        before()
        left = ends - time.monotonic()
        if left <= 0 or ended.is_set():
            break
        tries = attempt
        pause = min(LONGEST_PAUSE_S, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        try:
            answer = call(left)
            if answer.status_code < 400:
                return read(answer), attempt
            problem = f"status {answer.status_code}: {answer.text[:200]}"
            if answer.status_code not in RETRIED:
                raise BadInput(
                    f"{who} refuses the request with {problem}",
                    where=where,
                    remedy="Check the model's name, the key and the context length of the endpoint",
                )
            pause = max(pause, _asked_pause(answer))
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        except Unreadable as error:
            problem = str(error)
        if attempt <= retries:
            ended.wait(max(0.0, min(pause, ends - time.monotonic())))
    kind = DeadlineExceeded if time.monotonic() >= ends else InfrastructureError
    raise kind(f"{who} gave no answer in {tries} tries and {deadline_s:g} s; last: {problem}")


def _asked_pause(answer: httpx.Response) -> float:
    try:
        return min(LONGEST_PAUSE_S, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
