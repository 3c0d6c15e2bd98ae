"""A judge over any OpenAI-compatible chat endpoint: cached, retried, budgeted, and every prompt recorded.

Rate limits, 5xx, broken connections, late and unreadable answers are failures of the machine: retried with back-off
under one deadline, then an InfrastructureError, which masks the sample. A refusal of the request itself (401, 404, 422)
is bad input: no retry helps. A spent budget is bad input too: going on would train on what is left of the judge.

A reply that does not follow the asked form is asked for once more, with a reminder; then it is an infrastructure error,
for nothing is known about the response.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.recipe.execution import JudgeEndpoint

Messages = Sequence[Mapping[str, str]]
T = TypeVar("T")

# Statuses that another try may change; every other one of 400 and above says that the request is wrong.
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE_S = 20.0
REMINDER = "Your reply did not have the form that was asked for. Give the verdict again, exactly in that form."


@dataclass(frozen=True)
class JudgeReply:
    """tokens: prompt and completion, as the endpoint counts them; 0 from the cache. seconds: waiting for it."""

    text: str
    tokens: int
    seconds: float
    cached: bool
    attempts: int


class Judge:
    """One judge model. Thread-safe; bounded by the endpoint's `concurrency`.

    Args:
        record: JSON lines of every question and reply are appended here.
        cache: JSON lines that outlive the run; replies in memory only when absent.
    Raises:
        BadInput: the key's environment variable is empty.
    """

    def __init__(self, endpoint: JudgeEndpoint, *, record: Path | None = None, cache: Path | None = None) -> None:
        if not endpoint.base_url:
            raise BadInput(f"the judge {endpoint.model} has no base_url", where="execution.judges")
        headers = {}
        if endpoint.api_key_env:
            key = os.environ.get(endpoint.api_key_env)
            if not key:
                raise BadInput("the environment variable with the judge's API key is empty", where=endpoint.api_key_env)
            headers["Authorization"] = f"Bearer {key}"
        self.endpoint = endpoint
        self.tokens = self.calls = self.hits = 0
        self._client = httpx.Client(
            base_url=endpoint.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(10.0, endpoint.timeout_s)),
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._lock = threading.Lock()
        self._record, self._cache_file = record, cache
        self._cache: dict[str, str] = _read_cache(cache) if cache else {}

    def verdict(
        self, messages: Messages, read: Callable[[str], T | None], max_new_tokens: int
    ) -> tuple[T, list[JudgeReply]]:
        """What `read` finds in the reply, asking again once when it finds None; and the replies.

        Raises:
            InfrastructureError: no reply, or none that can be read.
            BadInput: the endpoint refuses the request, or the budget is spent.
        """
        asked, replies = list(messages), []
        for last in (False, True):
            reply = self.ask(asked, max_new_tokens)
            replies.append(reply)
            found = read(reply.text)
            if found is not None:
                return found, replies
            if not last:
                asked += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": REMINDER}]
        raise InfrastructureError(
            f"the judge {self.endpoint.model} gave no verdict in the form asked for: {replies[-1].text[:200]!r}"
        )

    def ask(self, messages: Messages, max_new_tokens: int) -> JudgeReply:
        """One completion at temperature 0.

        Raises:
            InfrastructureError: as many tries as the endpoint allows failed, or its deadline passed.
            BadInput: the endpoint refuses the request, or the budget is spent.
        """
        body = {
            "model": self.endpoint.model,
            "messages": list(messages),
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
        }
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self.hits += 1
        if known is not None:
            return self._written(key, body, JudgeReply(known, 0, 0.0, True, 0))
        with self._slots:
            started = time.monotonic()
            text, tokens, attempts = self._retried(body, started + self.endpoint.deadline_s)
            reply = JudgeReply(text, tokens, time.monotonic() - started, False, attempts)
        with self._lock:
            self.tokens, self.calls = self.tokens + tokens, self.calls + 1
            if key not in self._cache:
                self._cache[key] = text
                _append(self._cache_file, {"key": key, "text": text})
        return self._written(key, body, reply)

    def close(self) -> None:
        self._client.close()

    def _retried(self, body: Mapping[str, Any], ends: float) -> tuple[str, int, int]:
        budget, problem = self.endpoint.budget_tokens, ""
        for attempt in range(1, self.endpoint.retries + 2):
            if budget is not None and self.tokens >= budget:
                raise BadInput(
                    f"the judge {self.endpoint.model} has used {self.tokens} tokens, its budget is {budget}",
                    where="execution.judges: budget_tokens",
                    remedy="Raise the budget and run again: the stage goes on from its last checkpoint",
                )
            left = ends - time.monotonic()
            if left <= 0:
                break
            pause = min(_LONGEST_PAUSE_S, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            try:
                answer = self._client.post("chat/completions", json=body, timeout=min(left, self.endpoint.timeout_s))
                if answer.status_code < 400:
                    return *_content(answer), attempt
                problem = f"status {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in _RETRIED:
                    raise BadInput(
                        f"the judge {self.endpoint.model} refuses the request with {problem}",
                        where=f"execution.judges: {self.endpoint.base_url}",
                        remedy="Check model, key and context length of the endpoint",
                    )
                pause = max(pause, _retry_after(answer))
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            except _Unreadable as error:
                problem = str(error)
            if attempt <= self.endpoint.retries:
                time.sleep(max(0.0, min(pause, ends - time.monotonic())))
        kind = DeadlineExceeded if time.monotonic() >= ends else InfrastructureError
        raise kind(
            f"the judge {self.endpoint.model} at {self.endpoint.base_url} gave no answer within "
            f"{self.endpoint.retries + 1} tries and {self.endpoint.deadline_s:g} s; last: {problem or 'no time left'}"
        )

    def _written(self, key: str, body: Mapping[str, Any], reply: JudgeReply) -> JudgeReply:
        if self._record is not None:
            row = {"key": key, "model": body["model"], "messages": body["messages"], "reply": reply.text}
            row |= {"tokens": reply.tokens, "cached": reply.cached, "attempts": reply.attempts}
            with self._lock:
                _append(self._record, row)
        return reply


class _Unreadable(Exception):
    """A 200 that is no chat completion."""


def _content(answer: httpx.Response) -> tuple[str, int]:
    try:
        data = answer.json()
        text = data["choices"][0]["message"]["content"]
        # Null: the answer ended inside its reasoning, which a server keeps apart. It is a reply, with no verdict in it.
        text = "" if text is None else text
        if not isinstance(text, str):
            raise TypeError("content is no text")
        used = data.get("usage") or {}
        return text, int(used.get("total_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Unreadable(f"no chat completion ({type(error).__name__}): {answer.text[:200]!r}") from error


def _retry_after(answer: httpx.Response) -> float:
    try:
        return min(_LONGEST_PAUSE_S, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _append(path: Path | None, row: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def _read_cache(path: Path) -> dict[str, str]:
    """Complete lines only: the last one may have been cut off by a kill."""
    known = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            known[row["key"]] = row["text"]
        except (ValueError, KeyError):
            continue
    return known
