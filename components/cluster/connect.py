"""Connects this process to Ray: the cluster that RAY_ADDRESS names, else a small Ray of its own on loopback.

A wrong address is found with a plain TCP connection before Ray's own client, which keeps trying for a minute and then
speaks of GCS. Only loopback is bound when ringflow starts Ray itself.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

import ray

from components.failures import DeadlineExceeded, InfrastructureError
from components.recipe.execution import ExecutionConfig

# Enough for two publications of half a billion bytes each; memory is taken as it is used. A real cluster is started by
# its own operator with its own store size.
LOCAL_OBJECT_STORE_BYTES = 1536 * 1024**2

_LOCK = threading.Lock()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def connect(execution: ExecutionConfig, deadline_s: float | None = None) -> None:
    """Connects once per process; later calls return at once.

    Args:
        execution: supplies the default deadline and the number of workers a local Ray has to hold.
        deadline_s: seconds for the address to answer; `execution.start_deadline_s` when absent.
    Raises:
        InfrastructureError: the address does not answer, or Ray could not start; names the address and the way out.
    """
    deadline_s = execution.start_deadline_s if deadline_s is None else deadline_s
    address = os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Ray's default of 15 makes learners and engines give way to every server that polls on the same machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with _LOCK:
        if ray.is_initialized():
            return
        if address and address not in ("auto", "local"):
            _answers(address, min(deadline_s, 10.0))
        error = _attempt(address, deadline_s)
        if error is not None:  # no second try: what is left of the first would end this process a minute later
            raise InfrastructureError(
                f"Ray at {address or 'a new local instance'} could not be used: {error}. "
                "Start it (`ringflow up`), correct RAY_ADDRESS, or unset RAY_ADDRESS to run a local Ray."
            ) from error


def _attempt(address: str, deadline_s: float) -> Exception | None:
    """What `ray.init` failed of, or None. In a thread, since its own waits for a cluster take many minutes."""
    failed: list[Exception] = []
    done = threading.Event()

    def init() -> None:
        try:
            _init(address, deadline_s)
        except Exception as error:  # ray.init raises bare Exception when a start-up limit of its own passes
            failed.append(error)
        done.set()
        if not failed:
            # Linux kills Ray's servers when the THREAD that started them ends (PR_SET_PDEATHSIG), so it never ends.
            threading.Event().wait()

    threading.Thread(target=init, name="ray.init", daemon=True).start()
    if not done.wait(max(deadline_s, 1.0)):
        return DeadlineExceeded(f"no answer within {deadline_s:.0f} s")
    return failed[0] if failed else None


def _stay_on_loopback() -> None:
    """Keeps Ray from taking 127.0.0.1 for the machine's outer address, where it would listen and look for others.

    The variable is for the processes Ray starts; this process read it when ray was imported, whoever imported it first.
    """
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _wait_for_this_node(deadline_s: float) -> None:
    """Gives a local Ray `deadline_s` to register, not Ray's own 30 s, which a busy machine does not keep."""
    from ray._private import services

    find = services.get_node

    def patient(*arguments: Any) -> Any:
        ends = time.monotonic() + deadline_s
        while True:
            try:
                return find(*arguments)
            except RuntimeError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    services.get_node = patient


def _init(address: str, deadline_s: float) -> None:
    if not address or address == "local" or address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        _stay_on_loopback()
    if address and address != "local":
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        _wait_for_this_node(deadline_s)
        ray.init(
            address="local",
            num_cpus=max(cores(), 2),
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _answers(address: str, deadline_s: float) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InfrastructureError(f"RAY_ADDRESS={address!r} is not host:port; correct it or unset it")
    try:
        socket.create_connection((host, int(port)), timeout=deadline_s).close()
    except OSError as error:
        raise InfrastructureError(
            f"Ray at RAY_ADDRESS={address} does not answer ({error}). Start it (`ringflow up`) or unset RAY_ADDRESS."
        ) from error
