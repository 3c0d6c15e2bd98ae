"""A small HTTP proxy in front of a real S3 server that spoils chosen requests the way networks and servers do.

The server behind it is real and sees what it would have seen: a refused request never arrives, a request whose answer
is lost was carried out. Signatures stay valid because the Host header is passed on as the client wrote it.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["none", "error", "slow", "stall", "truncate", "reset", "lose answer"]
STALL_S = 30.0


@dataclass(frozen=True)
class Fault:
    """error: answered with 503 and not passed on. slow: passed on after `seconds`. stall: no answer while the client
    waits. truncate: half of the answer's body, then the end of the connection. reset: the connection ends before the
    request is passed on. lose answer: passed on and carried out, then the connection ends."""

    kind: Kind = "none"
    seconds: float = 0.0


NONE = Fault()
# (method, path, number of the request) -> what happens to it
Plan = Callable[[str, str, int], Fault]


def storm(seed: int, share: float) -> Plan:
    """Every fault at random, in a share of the requests."""
    chance = random.Random(seed)
    kinds: list[Kind] = ["error", "slow", "truncate", "reset", "lose answer"]
    lock = threading.Lock()

    def plan(method: str, path: str, number: int) -> Fault:
        with lock:
            return Fault(chance.choice(kinds), 0.3) if chance.random() < share else NONE

    return plan


class Proxy:
    """A context manager. url: what clients use as the endpoint. plan: may be exchanged at any time.

    spoiled: (kind, method, path) of every request that met a fault.
    """

    def __init__(self, upstream: str, plan: Plan = lambda method, path, number: NONE) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.plan = plan
        self.count = 0
        self.spoiled: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, name="proxy", daemon=True)
        self.closing = threading.Event()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)

    def fault(self, method: str, path: str) -> Fault:
        with self.lock:
            self.count += 1
            number = self.count
        found = self.plan(method, path, number)
        if found.kind != "none":
            with self.lock:
                self.spoiled.append((found.kind, method, path))
        return found


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self._body()
        fault = self.owner.fault(self.command, self.path)
        if fault.kind == "reset":
            return self._cut()
        if fault.kind == "error":
            return self._answer(503, [], b"<Error><Code>ServiceUnavailable</Code><Message>a fault</Message></Error>")
        if fault.kind == "stall":
            self.owner.closing.wait(STALL_S)
            return self._cut()
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        try:
            status, headers, content = self._pass_on(body)
        except OSError:
            return self._cut()
        if fault.kind == "lose answer":
            return self._cut()
        self._answer(status, headers, content, half=fault.kind == "truncate" and len(content) > 1)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection", "transfer-encoding", "content-length"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, half: bool = False) -> None:
        given = {name.lower(): value for name, value in headers}
        length = given.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._cut()

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
