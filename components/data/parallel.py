"""The same work in this process or on Ray Data, with the same results in the same order.

A job is a pure function of its description, and results are taken in the order of the jobs, so the number of workers
changes only the time. Results stream: Ray Data keeps a bounded number of finished blocks and holds the workers back.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

# Results of a job travel in parts of so many.
PART = 512


def ordered(work: Callable[[Any], Iterable[Any]], jobs: Sequence[Any], workers: int = 1) -> Iterator[tuple[int, Any]]:
    """(number of the job, one of its results), job after job.

    Args:
        work: picklable, as are jobs and results. A failure in it is raised here, as it was.
        workers: 1 computes here; more are tasks of Ray Data on the Ray this process is connected to.
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
    for row in tasks.iter_rows():
        part = pickle.loads(row["part"])
        if isinstance(part, Exception):
            raise part
        for result in part:
            yield row["number"], result
