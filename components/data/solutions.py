"""Code prompts stay only when their stored solution passes all their tests (Ring-lite, arXiv 2506.14731): a problem
whose own solution fails has wrong tests, and a policy would be punished for right programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from components.data.ingest import Dropped, Made, Result
from components.data.schema import BenchmarkItem, RlRecord
from components.data.sources import SourceEntry

# Programs judged together: enough to keep every sandbox worker busy.
BATCH = 32
FAILED, ABSENT = "filter solution fails its tests", "filter no accepted solution"


def only_solved(
    results: Iterable[Result | SourceEntry],
    mode: Literal["ignore", "run", "require"],
    accepted: Callable[[Sequence[RlRecord]], list[bool]],
) -> Iterator[Result | SourceEntry]:
    """The results in order, code prompts without an accepted solution turned into Dropped; entries count them so."""
    if mode == "ignore":
        yield from results
        return
    waiting: list[Result | SourceEntry] = []
    dropped: Counter = Counter()
    for result in results:
        waiting.append(result)
        if len(waiting) >= 16 * BATCH or sum(map(_to_run, waiting)) >= BATCH:
            yield from _judged(waiting, mode, accepted, dropped)
            waiting = []
    yield from _judged(waiting, mode, accepted, dropped)


def _is_code(result: Result | SourceEntry) -> bool:
    """A code prompt; benchmark items are never left out, their suite only tells."""
    record = result.record if isinstance(result, Made) else None
    return isinstance(record, RlRecord) and not isinstance(record, BenchmarkItem) and record.verifier.kind == "code"


def _to_run(result: Result | SourceEntry) -> bool:
    return _is_code(result) and result.record.solution is not None


def _judged(waiting, mode, accepted, dropped: Counter) -> Iterator[Result | SourceEntry]:
    """dropped: reasons since the last entry."""
    records = [result.record for result in waiting if _to_run(result)]
    verdicts = iter(accepted(records) if records else [])
    for result in waiting:
        reason = ""
        if _to_run(result):
            reason = "" if next(verdicts) else FAILED
        elif _is_code(result) and mode == "require":
            reason = ABSENT
        if reason:
            dropped[reason] += 1
            yield Dropped(reason)
        elif isinstance(result, SourceEntry):
            left_out = dict(sorted((Counter(result.left_out) + dropped).items()))
            yield replace(result, records=result.records - dropped.total(), left_out=left_out)
            dropped.clear()
        else:
            yield result
