"""A judge over any OpenAI-compatible chat endpoint: cached, retried, budgeted, and every prompt recorded.

Failures of the machine are retried (endpoint.py), then an InfrastructureError, which masks the sample. A refusal of the
request is bad input. A spent budget is bad input too: going on would train on what is left of the judge.

A reply that does not follow the asked form is asked for once more, with a reminder; then it is an infrastructure error,
for nothing is known about the response.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from components.failures import BadInput, InfrastructureError
from components.recipe.execution import JudgeEndpoint
from components.rewards.endpoint import Unreadable, answered, authorization

Messages = Sequence[Mapping[str, str]]
T = TypeVar("T")

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
        self.endpoint = endpoint
        self.tokens = self.calls = self.hits = 0
        self._client = httpx.Client(
            base_url=endpoint.base_url.rstrip("/") + "/",
            headers=authorization(endpoint.api_key_env, "judge's API key"),
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(10.0, endpoint.timeout_s)),
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._lock, self._ended = threading.Lock(), threading.Event()
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
            text, tokens, attempts = self._retried(body)
            reply = JudgeReply(text, tokens, time.monotonic() - started, False, attempts)
        with self._lock:
            self.tokens, self.calls = self.tokens + tokens, self.calls + 1
            if key not in self._cache:
                self._cache[key] = text
                _append(self._cache_file, {"key": key, "text": text})
        return self._written(key, body, reply)

    def close(self) -> None:
        self._ended.set()
        self._client.close()

    def _retried(self, body: Mapping[str, Any]) -> tuple[str, int, int]:
        endpoint = self.endpoint

        def post(left: float) -> httpx.Response:
            return self._client.post("chat/completions", json=body, timeout=min(left, endpoint.timeout_s))

        (text, tokens), attempts = answered(
            post,
            _content,
            who=f"the judge {endpoint.model} at {endpoint.base_url}",
            where=f"execution.judges: {endpoint.base_url}",
            retries=endpoint.retries,
            deadline_s=endpoint.deadline_s,
            ended=self._ended,
            before=self._affordable,
        )
        return text, tokens, attempts

    def _affordable(self) -> None:
        budget = self.endpoint.budget_tokens
        if budget is not None and self.tokens >= budget:
            raise BadInput(
                f"the judge {self.endpoint.model} has used {self.tokens} tokens, its budget is {budget}",
                where="execution.judges: budget_tokens",
                remedy="Raise the budget and run again: the stage goes on from its last checkpoint",
            )

    def _written(self, key: str, body: Mapping[str, Any], reply: JudgeReply) -> JudgeReply:
        if self._record is not None:
            row = {"key": key, "model": body["model"], "messages": body["messages"], "reply": reply.text}
            row |= {"tokens": reply.tokens, "cached": reply.cached, "attempts": reply.attempts}
            with self._lock:
                _append(self._record, row)
        return reply


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
        raise Unreadable(f"no chat completion ({type(error).__name__}): {answer.text[:200]!r}") from error


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
