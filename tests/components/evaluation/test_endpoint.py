"""The endpoint sampler against a real HTTP server that answers, refuses, is busy, breaks off, or says nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.data.schema import Message
from components.evaluation.endpoint import Endpoint, EndpointSampler
from components.evaluation.sampler import Draw, Drawing
from components.failures import BadInput, DeadlineExceeded, InfrastructureError

DRAWING = Drawing(1.0, 0.95, 64)


class Handler(BaseHTTPRequestHandler):
    """The user's message names the behaviour; `seen` counts requests by message."""

    protocol_version = "HTTP/1.1"
    seen: Counter
    bodies: list

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "m", "max_model_len": 4096}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        self.seen[asked] += 1
        self.bodies.append(body)
        message, reason = {"content": f"answer to {asked}"}, "stop"
        if asked == "busy once" and self.seen[asked] == 1:
            return self._send(429, {"error": "later"}, {"retry-after": "0"})
        if asked == "always down":
            return self._send(503, {"error": "down"})
        if asked == "bad key":
            return self._send(401, {"error": "who are you"})
        if asked == "break off" and self.seen[asked] == 1:
            self.close_connection = True
            return self.connection.close()
        if asked == "nonsense":
            return self._send(200, {"hello": "world"})
        if asked == "stall":
            threading.Event().wait(3)
        if asked == "filtered":
            message, reason = {"content": ""}, "content_filter"
        if asked == "thinks":
            message = {"content": "42", "reasoning_content": "6 times 7"}
        if asked == "cut in thought":
            message, reason = {"content": None, "reasoning_content": "6 times"}, "length"
        return self._send(
            200, {"choices": [{"message": message, "finish_reason": reason}], "usage": {"completion_tokens": 7}}
        )

    def _send(self, status: int, data: dict, headers: dict | None = None) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.seen, Handler.bodies = Counter(), []
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(10)


def asked(*texts: str) -> list[Draw]:
    return [Draw(f"b|{n}|0", (Message(role="user", content=text),), 100 + n) for n, text in enumerate(texts)]


def endpoint(server: ThreadingHTTPServer, **options: object) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", **{"model": "m", "retries": 2, **options})


def test_answers_in_order_with_reasoning_refusals_and_retries(server) -> None:
    with EndpointSampler(endpoint(server)) as sampler:
        found = sampler.draw(asked("one", "busy once", "filtered", "thinks", "cut in thought", "break off"), DRAWING)
        assert sampler.facts["max_model_len"] == 4096
    assert [drawn.finish for drawn in found] == ["stop", "stop", "refused", "stop", "length", "stop"]
    assert found[0].text == "answer to one"
    assert found[3].text == "<think>6 times 7</think>42"
    assert found[4].text == "<think>6 times"
    assert Handler.seen["busy once"] == Handler.seen["break off"] == 2
    assert {(body["seed"], body["temperature"], body["top_p"], body["max_tokens"]) for body in Handler.bodies} >= {
        (100, 1.0, 0.95, 64)
    }


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("always down", InfrastructureError, "gave no answer in 3 tries and .* last: status 503"),
        ("nonsense", InfrastructureError, "no chat completion"),
        ("bad key", BadInput, "status 401"),
    ],
)
def test_failures_are_told_apart_and_never_an_answer(server, text: str, kind: type, message: str) -> None:
    with EndpointSampler(endpoint(server, retries=2)) as sampler, pytest.raises(kind, match=message):
        sampler.draw(asked("one", text), DRAWING)


def test_what_came_before_a_failure_is_handed_on(server) -> None:
    with EndpointSampler(endpoint(server, retries=2)) as sampler:
        parts = sampler.parts(asked("one", "two", "always down"), DRAWING)
        assert {drawn.text for drawn in next(parts)} == {"answer to one", "answer to two"}
        with pytest.raises(InfrastructureError, match="status 503"):
            next(parts)


def test_a_stalled_answer_meets_its_deadline(server) -> None:
    with (
        EndpointSampler(endpoint(server, deadline_s=0.5)) as sampler,
        pytest.raises(DeadlineExceeded, match="no answer"),
    ):
        sampler.draw(asked("stall"), DRAWING)


def test_a_failure_ends_requests_that_are_under_way(server) -> None:
    """Their answers would be read until the deadline, an hour by default, and nobody could leave before."""
    began = time.monotonic()
    with EndpointSampler(endpoint(server)) as sampler, pytest.raises(BadInput, match="status 401"):
        sampler.draw(asked("stall", "stall", "bad key"), DRAWING)
    assert time.monotonic() - began < 2.5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint")]


def test_an_unknown_model_and_a_missing_key_are_told_at_once(server, monkeypatch) -> None:
    with pytest.raises(BadInput, match=r"no model 'x'.*It has: m"):
        EndpointSampler(endpoint(server, model="x"))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(BadInput, match="NO_SUCH_KEY"):
        EndpointSampler(endpoint(server, api_key_env="NO_SUCH_KEY"))
