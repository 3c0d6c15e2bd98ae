"""What nobody needs any more in a store, and its removal, beside runs that are at work.

    lease     held by a process that is gone (dead on this machine, or without a heartbeat for longer than its ttl)
    attempt   files of an attempt that did not win, or was never committed and that no resume point may still need
    order     orders for jobs (tasks.job_order) of a stage that is committed
    resume    resume points of a stage that is committed; unfinished points; on request, points that nobody went on from
    upload    multipart uploads that were begun and never finished
    probe     objects of the store's own health check

Whatever belongs to a fingerprint is removed only while its lease is held here, so no stage works on it meanwhile; a
stage that starts later waits for the lease. Attempts and unfinished points must be a day old besides: a holder that
stopped between its last look at the lease and its commit must have had time to notice. What was committed is never
touched, and a marker that cannot be read leaves everything beside it alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

from components.artifacts.committed import FINGERPRINT, MARKER
from components.artifacts.lease import LEASE_FILE, STALE_FACTOR, Lease, LeaseRecord
from components.artifacts.objects import PRIVATE, Upload
from components.artifacts.outbox import LISTS
from components.artifacts.process import boot_seconds
from components.artifacts.resume import COMPLETE
from components.artifacts.store import Store
from components.failures import DeadlineExceeded, RingflowError

Kind = Literal["lease", "attempt", "order", "resume", "upload", "probe", "cache", "work", "run"]
HOUR, DAY = 3600.0, 86400.0
MINIMUM_AGE_S = DAY
PROBE_AGE_S = HOUR
LONGEST_WATCH_S = 300.0
LANES = 8


@dataclass(frozen=True)
class Leftover:
    """place: URI, path or name. why: what makes it superfluous. kept: why it was left after all; empty when it was not.

    root: `<project>/<stage>/<fingerprint>` whose lease guards it; key: what to remove in the store; upload: to give up.
    """

    kind: Kind
    place: str
    why: str
    bytes: int = 0
    kept: str = ""
    root: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    upload: Upload | None = field(default=None, repr=False)


@dataclass
class _Root:
    """One fingerprint's directory: sizes of attempts, points and orders, what is complete, the lease.

    sending: attempts that sent files before a resume point (components.artifacts.outbox).
    """

    committed: bool = False
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    points: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    orders: int = 0
    complete: set[str] = field(default_factory=set)
    sending: set[str] = field(default_factory=set)
    lease: bool = False


def survey(store: Store, resume_days: float = 0, upload_hours: float = 24) -> list[Leftover]:
    """The findings of `survey_with_leases`."""
    return survey_with_leases(store, resume_days, upload_hours)[0]


def survey_with_leases(
    store: Store, resume_days: float = 0, upload_hours: float = 24
) -> tuple[list[Leftover], frozenset[str]]:
    """(everything superfluous, fingerprints that somebody is at work on), without changing anything.

    `kept` of a finding names what a run is at work on.

    Watches leases whose holder may live on another machine for as long as they need to beat (a ttl, 36 s by default).

    Args:
        resume_days: complete resume points of unfinished stages go after that many days without a newer one; 0 keeps
            them all. upload_hours: age at which an unfinished upload is given up.
    """
    now = time.time()
    with ThreadPoolExecutor(LANES) as pool:
        roots = {
            f"{project}/{stage}/{name}": root
            for project in store.projects()
            for stage in store.objects.folders(project)
            for name, root in _roots(store.objects.files(f"{project}/{stage}")).items()
        }
        first = dict(pool.map(lambda root: (root, _lease(store, root)), [r for r, e in roots.items() if e.lease]))
        began = boot_seconds()
        found = [
            leftover
            for leftovers in pool.map(lambda item: _of_root(store, *item, resume_days, now), roots.items())
            for leftover in leftovers
        ]
    found += [
        Leftover("upload", f"{store.url}/{upload.key}", f"begun {_age(now - upload.began)} ago", upload=upload)
        for upload in store.objects.uploads()
        if now - upload.began > upload_hours * HOUR
    ]
    found += _probes(store, now)
    busy, leases = _judge(store, first, began)
    kept = [replace(item, kept=busy[item.root]) if item.root in busy else item for item in found]
    at_work = frozenset(root.rpartition("/")[2] for root in busy)
    return sorted([*leases, *kept], key=lambda item: (item.kind, item.place)), at_work


def remove(store: Store, found: Iterable[Leftover], report: Callable[[Leftover], None] | None = None) -> list[Leftover]:
    """Removes what a survey found; the same entries, with `kept` where something was in the way.

    report: called with each entry as it is done.
    """
    tell = report or (lambda leftover: None)
    groups: dict[str, list[Leftover]] = defaultdict(list)
    for item in found:
        groups[item.root or item.place].append(item)

    def work(items: list[Leftover]) -> list[Leftover]:
        done = _remove_group(store, items)
        for item in done:
            tell(item)
        return done

    with ThreadPoolExecutor(LANES) as pool:
        return [item for items in pool.map(work, groups.values()) for item in items]


def _remove_group(store: Store, items: list[Leftover]) -> list[Leftover]:
    if items[0].kept:
        return items
    if not items[0].root:
        return [_removed(store, item) for item in items]
    project, stage, fingerprint = items[0].root.split("/")
    record = _lease(store, items[0].root)
    ttl = record.ttl_s if record else 30.0
    try:
        with Lease.acquire(
            store, project, stage, fingerprint, ttl_s=ttl, wait_s=ttl * 1.5, run_id="housekeeping"
        ) as lease:
            marker = store.commit(items[0].root)
            done = []
            for item in items:
                lease.check()
                won = marker is not None and item.key == f"{item.root}/attempts/{marker.attempt}"
                done.append(replace(item, kept="it was committed meanwhile") if won else _removed(store, item))
            return done
    except DeadlineExceeded:
        return [replace(item, kept="a run works on it") for item in items]
    except RingflowError as error:
        return [replace(item, kept=str(error)) for item in items]


def _removed(store: Store, item: Leftover) -> Leftover:
    try:
        if item.upload is not None:
            store.objects.abort(item.upload)
        elif item.key:
            # a point without its marker is invisible, so a removal that is cut off leaves no damaged one
            if item.kind == "resume":
                store.objects.remove(f"{item.key}/{COMPLETE}")
            store.objects.remove(item.key)
    except RingflowError as error:
        return replace(item, kept=str(error))
    return item


def _roots(files: dict[str, int]) -> dict[str, _Root]:
    """{fingerprint: what lies in its directory}, from one listing of a stage."""
    roots: dict[str, _Root] = {}
    for key, size in files.items():
        name, _, rest = key.partition("/")
        if not FINGERPRINT.fullmatch(name):
            continue
        root = roots.setdefault(name, _Root())
        match rest.split("/"):
            case ["attempts", attempt, *inside]:
                root.attempts[attempt] += size
                if inside[:1] == [LISTS]:
                    root.sending.add(attempt)
            case ["jobs", _]:
                root.orders += size
            case ["resume", point, *inside]:
                root.points[point] += size
                if inside == [COMPLETE]:
                    root.complete.add(point)
            case [file] if file == MARKER:
                root.committed = True
            case [file] if file == LEASE_FILE:
                root.lease = True
    return roots


def _of_root(store: Store, place: str, root: _Root, resume_days: float, now: float) -> list[Leftover]:
    """The superfluous attempts and points of one fingerprint."""
    if root.committed and len(root.attempts) == 1 and not root.points and not root.orders:
        return []
    try:
        marker = store.commit(place) if root.committed else None
    except RingflowError:
        return []

    def old(key: str, seconds: float) -> float | None:
        """The age if it is more than `seconds`."""
        written = store.objects.modified(key)
        return now - written if written is not None and now - written > seconds else None

    found = []

    def add(kind: Kind, key: str, why: str, size: int) -> None:
        found.append(Leftover(kind, f"{store.url}/{key}", why, size, root=place, key=key))

    for attempt, size in root.attempts.items():
        key = f"{place}/attempts/{attempt}"
        if marker is not None and attempt == marker.attempt:
            continue
        if marker is None and root.complete and attempt in root.sending:
            continue  # the stage may go on from there
        if age := old(key, MINIMUM_AGE_S):
            why = "another attempt was committed" if marker else "never committed"
            add("attempt", key, f"{why}, {_age(age)} old", size)
    if marker is not None and root.orders:
        add("order", f"{place}/jobs", "its stage is finished", root.orders)
    for point, size in root.points.items():
        key = f"{place}/resume/{point}"
        if marker is not None:
            add("resume", key, "its stage is finished", size)
        elif point not in root.complete:
            if age := old(key, MINIMUM_AGE_S):
                add("resume", key, f"never completed, {_age(age)} old", size)
        elif resume_days and (age := old(key, resume_days * DAY)):
            add("resume", key, f"nobody went on from it for {_age(age)}", size)
    return found


def _probes(store: Store, now: float) -> list[Leftover]:
    folder = f"{PRIVATE}check"
    found = []
    for name, size in store.objects.files(folder).items():
        written = store.objects.modified(f"{folder}/{name}")
        if written is not None and now - written > PROBE_AGE_S:
            place = f"{store.url}/{folder}/{name}"
            found.append(Leftover("probe", place, f"{_age(now - written)} old", size, key=f"{folder}/{name}"))
    return found


def _lease(store: Store, root: str) -> LeaseRecord | None:
    """The lease of a fingerprint; None when it is absent or unreadable (then acquiring it tells)."""
    stored = store.objects.read(f"{root}/{LEASE_FILE}")
    try:
        return LeaseRecord.model_validate_json(stored.data) if stored else None
    except ValueError:
        return None


def _judge(store: Store, first: dict[str, LeaseRecord | None], began: float) -> tuple[dict[str, str], list[Leftover]]:
    """({root: why it is in use}, leases whose holder is gone). first: records read at `began`."""
    held = {root: record for root, record in first.items() if record is not None and not record.released}
    dead = {root: "its process is gone" for root, record in held.items() if record.holder.certainly_dead()}
    unsure = {root: record for root, record in held.items() if root not in dead}
    if unsure:
        watch = min(max(record.ttl_s for record in unsure.values()) * STALE_FACTOR, LONGEST_WATCH_S)
        time.sleep(max(0.0, watch - (boot_seconds() - began)))
    busy: dict[str, str] = {}
    for root, record in unsure.items():
        now = _lease(store, root)
        if now is not None and (now.nonce, now.beat, now.released) == (record.nonce, record.beat, False):
            dead[root] = f"no heartbeat from {record.holder}"
        elif now is not None and not now.released:
            busy[root] = f"{now.holder} works on it"
    leases = [Leftover("lease", f"{store.url}/{root}/{LEASE_FILE}", why, root=root) for root, why in dead.items()]
    return busy, leases


def _age(seconds: float) -> str:
    return f"{seconds / DAY:.0f} days" if seconds >= 2 * DAY else f"{seconds / HOUR:.0f} h"
