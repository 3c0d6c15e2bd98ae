"""The same work in several processes of this machine, results in the order of the jobs, every wait with a deadline.

A process that dies, or that does not answer in time, ends the work with an infrastructure failure that names the job;
nothing is left out. Processes are spawned, told their work once, and end with the pipe when the parent is killed.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from components.failures import DeadlineExceeded, InfrastructureError

DEADLINE_S = 600.0
_END_S = 5.0


def ordered_in_processes(
    make: Callable[..., Callable[[Any], Any]],
    arguments: tuple[Any, ...],
    jobs: Iterable[tuple[str, Any]],
    workers: int,
    deadline_s: float = DEADLINE_S,
) -> Iterator[Any]:
    """The result of every job, in order; at most a few more jobs than workers are read ahead.

    Args:
        make: called once in every process with `arguments`; its result does the jobs. All of it is picklable.
        jobs: (name for people, job).
        deadline_s: for one job, the start of its process included.

    Raises:
        What a job raised, as it was. DeadlineExceeded: a job took longer. InfrastructureError: a process died.
    """
    waiting = iter(jobs)
    crew: list[_Worker] = []
    finished: dict[int, Any] = {}
    given = taken = 0
    try:
        crew += [_Worker(make, arguments) for _ in range(workers)]
        while True:
            for worker in crew:
                if worker.job is None and given - taken < 3 * workers:
                    following = next(waiting, None)
                    if following is not None:
                        worker.give(given, *following)
                        given += 1
            if given == taken:
                return
            if taken not in finished:
                _collect([worker for worker in crew if worker.job is not None], finished, deadline_s)
            while taken in finished:
                yield finished.pop(taken)
                taken += 1
    finally:
        for worker in crew:
            worker.close()


def _collect(busy: list[_Worker], finished: dict[int, Any], deadline_s: float) -> None:
    """Waits for an answer at least, and takes those that are there."""
    left = min(worker.began for worker in busy) + deadline_s - time.monotonic()
    ready = wait([worker.pipe for worker in busy], timeout=max(0.0, left))
    for worker in busy:
        if worker.pipe in ready:
            number, result = worker.answer()
            finished[number] = result
    if not ready:
        slow = min(busy, key=lambda worker: worker.began)
        raise DeadlineExceeded(f"{slow.name}: no answer of its process within {deadline_s:.0f} s")


class _Worker:
    """One process. job: the number of what it does now; name, began: of that job."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.job: int | None = None
        self.name, self.began = "", 0.0

    def give(self, number: int, name: str, job: Any) -> None:
        self.job, self.name, self.began = number, name, time.monotonic()
        # In a thread: a process that does not read would hold back this one, and the deadline is that of the answer.
        threading.Thread(target=self._send, args=(job,), daemon=True).start()

    def _send(self, job: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead: the answer that does not come says so
            self.pipe.send(job)

    def answer(self) -> tuple[int, Any]:
        try:
            result, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_END_S)
            raise InfrastructureError(
                f"{self.name}: its process ended with exit code {self._process.exitcode}"
                " (killed for want of memory? Then ask for fewer workers)"
            ) from None
        if error is not None:
            raise error
        number, self.job = self.job, None
        return number, result

    def close(self) -> None:
        self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_END_S)
        self.pipe.close()


def _serve(pipe: Connection, make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    work: Callable[[Any], Any] | None = None
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or stops us in a moment
        while True:
            job = pipe.recv()
            try:
                work = work or make(*arguments)
                answer = (work(job), None)
            except Exception as error:
                answer = (None, error)
            pipe.send(answer)
