"""The same work in this process or on Ray Data, with the same results in the same order.

A job is a pure function of its description, and results are taken in the order of the jobs, so the number of workers
changes only the time. Results stream: Ray Data keeps a bounded number of finished blocks and holds the workers back.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from components.failures import DeadlineExceeded, InfrastructureError, RingflowError

# Results of a job travel in parts of so many.
PART = 512
# The next part of a block of some megabytes is there long before, unless the cluster has no room or lost a node.
DEADLINE_S = 900.0


def ordered(work: Callable[[Any], Iterable[Any]], jobs: Sequence[Any], workers: int = 1) -> Iterator[tuple[int, Any]]:
    """(number of the job, one of its results), job after job.

    Args:
        work: picklable, as are jobs and results. A failure in it is raised here, as it was.
        workers: 1 computes here; more are tasks of Ray Data on the Ray this process is connected to.

    Raises:
        What `work` raised, as it was. DeadlineExceeded: Ray gave no result for DEADLINE_S. InfrastructureError: it
        failed otherwise.
    """
    if workers <= 1 or len(jobs) <= 1:
        for number, job in enumerate(jobs):
            for result in work(job):
                yield number, result
        return
    yield from _on_ray(work, jobs, workers)


class _Task:
    """One batch of Ray Data is one job; its results leave in parts, a failure as the last of them."""

    def __init__(self, work: Callable[[Any], Iterable[Any]]) -> None:
        self.work = work

    def __call__(self, batch: dict[str, list[Any]]) -> Iterator[dict[str, list[Any]]]:
        for number, packed in zip(batch["number"], batch["job"], strict=True):
            results = iter(self.work(pickle.loads(packed)))
            while True:
                try:
                    part: Any = list(islice(results, PART))
                except Exception as error:
                    yield {"number": [int(number)], "part": [pickle.dumps(error)]}
                    return
                if not part:
                    break
                yield {"number": [int(number)], "part": [pickle.dumps(part)]}


def _on_ray(work: Callable[[Any], Iterable[Any]], jobs: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.execution_options.preserve_order = True
    rows = [{"number": number, "job": pickle.dumps(job)} for number, job in enumerate(jobs)]
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Task(work), batch_size=None, concurrency=workers
    )
    for row in in_time(tasks.iter_rows(), DEADLINE_S, "Ray Data"):
        part = pickle.loads(row["part"])
        if isinstance(part, Exception):
            raise part
        for result in part:
            yield row["number"], result


def in_time(results: Iterable[Any], deadline_s: float, who: str) -> Iterator[Any]:
    """The results of an iterator that cannot be told how long to wait, taken in a thread of its own.

    Raises DeadlineExceeded when the next result is not there `deadline_s` after it was asked for; what the iterator
    raises is an InfrastructureError unless it is a failure of ours.
    """
    found: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=4)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                found.put((kind, value), timeout=0.5)
                return
            except queue.Full:
                continue

    def pump() -> None:
        try:
            for result in results:
                put("result", result)
                if stopped.is_set():
                    return
            put("end", None)
        except Exception as error:
            put("error", error)

    threading.Thread(target=pump, name=f"results of {who}", daemon=True).start()
    try:
        while True:
            try:
                kind, value = found.get(timeout=deadline_s)
            except queue.Empty:
                raise DeadlineExceeded(
                    f"{who} gave no result for {deadline_s:.0f} s: has the cluster free processors (`ray status`)?"
                ) from None
            if kind == "end":
                return
            if kind == "error":
                if isinstance(value, RingflowError):
                    raise value
                raise InfrastructureError(f"{who} failed: {value}") from value
            yield value
    finally:
        stopped.set()
