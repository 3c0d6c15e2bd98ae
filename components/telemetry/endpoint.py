"""`/metrics` on 127.0.0.1, as long as a process works: switched on by RINGFLOW_METRICS_PORT, off without it.

A port that is taken is a warning and no failure: a figure on a dashboard is not worth a night of training. The first
flow run or sandbox service of a process opens the endpoint, the last one closes it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.failures import BadInput
from components.telemetry.metrics import Recorder, record

log = logging.getLogger(__name__)

VARIABLE = "RINGFLOW_METRICS_PORT"
HOST = "127.0.0.1"
CLOSE_DEADLINE_S = 5.0


class Endpoint:
    """Serves the process's metrics until `close`. port: 0 takes a free one; `self.port` is the one it got.

    Raises:
        OSError: the port is taken or may not be bound.
    """

    def __init__(self, port: int) -> None:
        from prometheus_client import start_http_server

        self.recorder = Recorder()
        self._server, self._thread = start_http_server(port, addr=HOST, registry=self.recorder.registry)
        self.port: int = self._server.server_port
        record(self.recorder)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/metrics"

    def close(self) -> None:
        record(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(CLOSE_DEADLINE_S)


def chosen_port() -> int | None:
    """The port of RINGFLOW_METRICS_PORT, None when it is not set. Raises BadInput for anything but 0 to 65535."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if not text.isdigit() or int(text) > 65535:
        raise BadInput(f"{text!r} is no port", where=VARIABLE, remedy="Give a number up to 65535, or unset it")
    return int(text)


_lock = threading.Lock()
_shared: Endpoint | None = None
_users = 0


@contextmanager
def metrics_served() -> Iterator[Any]:
    """The process's endpoint while the block runs, or None when it is off or its port is taken.

    Raises:
        BadInput: the variable holds no port.
    """
    global _users
    port = chosen_port()
    if port is None:
        yield None
        return
    with _lock:
        _users += 1
        endpoint = _open(port)
    try:
        yield endpoint
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _close()


def _open(port: int) -> Endpoint | None:
    global _shared
    if _shared is None:
        try:
            _shared = Endpoint(port)
            log.info("metrics for Prometheus are at %s", _shared.url)
        except OSError as error:
            log.warning("no metrics: port %d of %s cannot be used (%s), see %s", port, HOST, error.strerror, VARIABLE)
    return _shared


def _close() -> None:
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None
