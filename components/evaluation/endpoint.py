"""Answers from any OpenAI-compatible endpoint: many at the same time, bounded, retried, under one deadline each.

A served model is not ours to seed: the seed is sent, and endpoints that honour it repeat their draws. What an endpoint
reports as reasoning is put back between <think> marks, so that answers look as our own engines' do. Rate limits, 5xx
and broken connections are retried with back-off, then fail the stage as infrastructure: nothing is scored that was not
answered. A refusal (finish reason content_filter, or a refusal in place of content) is an outcome of its own.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import httpx

from components.data.schema import Message
from components.evaluation.sampler import Draw, Drawing, Drawn
from components.failures import BadInput, InfrastructureError
from components.rewards.endpoint import answered, authorization

# How often answers that have come are handed on, to be checked and kept while others are still drawn.
PART_S = 15.0


@dataclass(frozen=True)
class Endpoint:
    """base_url: ends in /v1. api_key_env: the variable that holds the key. deadline_s: of one answer, with retries."""

    base_url: str
    model: str
    api_key_env: str = ""
    concurrency: int = 32
    retries: int = 5
    deadline_s: float = 3600.0


class EndpointSampler:
    """Close it, or use it in a `with` statement.

    Raises:
        BadInput: the key's variable is empty, or the endpoint does not have the model.
        InfrastructureError: it does not answer.
    """

    context_length: int | None = None

    def __init__(self, endpoint: Endpoint, stopping: Callable[[], None] = lambda: None) -> None:
        self.endpoint, self._stopping = endpoint, stopping
        self.wave = 4 * endpoint.concurrency
        self._client = httpx.Client(
            base_url=endpoint.base_url.rstrip("/") + "/",
            headers=authorization(endpoint.api_key_env, "API key"),
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint")
        self._ended = threading.Event()
        self._streams, self._noting = WeakSet[Any](), threading.Lock()
        try:
            self.facts = self._look()
        except BaseException:
            self.close()
            raise

    def room(self, messages: tuple[Message, ...]) -> None:
        return None

    def draw(self, requests: list[Draw], drawing: Drawing) -> list[Drawn]:
        found = {drawn.request_id: drawn for part in self.parts(requests, drawing) for drawn in part}
        return [found[request.request_id] for request in requests]

    def parts(self, requests: list[Draw], drawing: Drawing) -> Iterator[list[Drawn]]:
        """What came in the last PART_S seconds, again and again; the rest goes on meanwhile. A failure comes last."""
        waiting = {self._pool.submit(self._one, request, drawing) for request in requests}
        try:
            failed: list[BaseException] = []
            while waiting and not failed:
                ends, part = time.monotonic() + PART_S, []
                while waiting and not failed and (left := ends - time.monotonic()) > 0:
                    done, waiting = wait(waiting, min(left, 1.0), FIRST_EXCEPTION)
                    failed += [error for future in done if (error := future.exception()) is not None]
                    part += [future.result() for future in done if future.exception() is None]
                    self._stopping()
                if part:
                    yield part
            if failed:
                raise failed[0]
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends requests that are under way, too: a connection that is closed under its reader leaves it waiting."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._noting:
            for stream in self._streams:
                _cut(stream)
        self._pool.shutdown()
        self._client.close()

    def _opened(self, event: str, info: dict[str, Any]) -> None:
        """Notes every connection (httpcore's trace extension)."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._noting:
                self._streams.add(info["return_value"])
            if self._ended.is_set():
                _cut(info["return_value"])

    def __enter__(self) -> EndpointSampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look(self) -> dict[str, Any]:
        """What the endpoint says of the model, recorded with the scores; its context length where it tells."""
        noted = {"trace": self._opened}
        answer = self._retried(lambda left: self._client.get("models", timeout=min(left, 10.0), extensions=noted), 60.0)
        models = {entry["id"]: entry for entry in answer.json().get("data", []) if "id" in entry}
        if models and self.endpoint.model not in models:
            raise BadInput(
                f"the endpoint has no model {self.endpoint.model!r}",
                where=self.endpoint.base_url,
                remedy=f"It has: {', '.join(list(models)[:10])}",
            )
        found = models.get(self.endpoint.model, {})
        length = found.get("max_model_len")
        return {"endpoint": self.endpoint.base_url, "model": self.endpoint.model} | (
            {"max_model_len": length} if length else {}
        )

    def _one(self, request: Draw, drawing: Drawing) -> Drawn:
        body = {
            "model": self.endpoint.model,
            "messages": [message.model_dump() for message in request.messages],
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "max_tokens": drawing.max_new_tokens,
            "seed": request.seed,
        }
        if "max_model_len" in self.facts:  # the endpoint counts the prompt's tokens, so it is asked to use what is left
            body["max_tokens"] = min(drawing.max_new_tokens, int(self.facts["max_model_len"]) - 1)
        answer = self._retried(lambda left: self._post(body, left), self.endpoint.deadline_s)
        return _drawn(request.request_id, answer)

    def _post(self, body: dict[str, Any], left: float) -> httpx.Response:
        asked = {"timeout": httpx.Timeout(left, connect=10.0), "extensions": {"trace": self._opened}}
        answer = self._client.post("chat/completions", json=body, **asked)
        if answer.status_code == 400 and "max_tokens" in body and "context" in answer.text.lower():
            # The prompt takes part of the context: without a bound the endpoint uses the rest.
            body.pop("max_tokens")
            answer = self._client.post("chat/completions", json=body, **asked)
        return answer

    def _retried(self, call: Callable[[float], httpx.Response], deadline_s: float) -> httpx.Response:
        return answered(
            call,
            lambda answer: answer,
            who=f"{self.endpoint.model} at {self.endpoint.base_url}",
            where=self.endpoint.base_url,
            retries=self.endpoint.retries,
            deadline_s=deadline_s,
            ended=self._ended,
        )[0]


def _cut(stream: Any) -> None:
    """Whoever reads from it gets an end at once, which closing it would not do."""
    with suppress(OSError):
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def _drawn(request_id: str, answer: httpx.Response) -> Drawn:
    try:
        data: Mapping[str, Any] = answer.json()
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        tokens = int((data.get("usage") or {}).get("completion_tokens") or 0)
        reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InfrastructureError(
            f"no chat completion from {answer.url} ({type(error).__name__}): {answer.text[:200]!r}"
        ) from error
    if reason == "content_filter" or (message.get("refusal") and not content):
        return Drawn(request_id, str(message.get("refusal") or content), tokens, "refused")
    text = f"<think>{reasoning}</think>{content}" if reasoning else content
    if reasoning and not content and reason == "length":
        text = f"<think>{reasoning}"
    return Drawn(request_id, text, tokens, "length" if reason == "length" else "stop")
