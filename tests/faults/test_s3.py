"""S3 that is slow, answers with errors, cuts bodies or loses answers: right bytes or a named failure, never others.

A real SeaweedFS behind a proxy that spoils requests (tests.faults.proxy).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from components.artifacts import chunks, folder, s3
from components.artifacts.chunks import Chunk, chunk_digest, read_chunks, spans
from components.artifacts.context import ResumePoint
from components.artifacts.digest import file_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import StoreResume
from components.artifacts.store import Store
from components.failures import InfrastructureError, IntegrityError
from tests.components.artifacts.conftest import s3_endpoint, s3_environment  # noqa: F401  (fixtures)
from tests.components.artifacts.test_store import identity, provenance
from tests.faults.proxy import NONE, Fault, Plan, Proxy

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

CONTENT = {"weights/a.bin": b"\x00\x01" * 40_000, "weights/b.bin": b"\xff" * 70_001, "config.json": b"{}"}
RANK = bytes(range(256)) * (11 << 12)  # what a rank sends in parts and reads in parts
FAULT = "S3 behind a bad network"


@pytest.fixture
def proxy(s3_environment, monkeypatch) -> Iterator[Proxy]:  # noqa: F811
    with Proxy(s3_environment) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        path = tmp_path / "output" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "output"


def _rank_reads(point: ResumePoint) -> None:
    found = bytearray(len(RANK))

    def take(start: int, data: memoryview) -> None:
        found[start : start + len(data)] = data

    parts = spans(len(RANK))
    wanted = [
        Chunk("rank", start, stop - start, chunk_digest(RANK[start:stop]), "values", partial(take, start))
        for start, stop in parts
    ]
    read_chunks(point.place, wanted)
    assert found == RANK


class Work:
    """A small stage: lease, resume point, publish. Tries may fail, as a fault of the machinery only."""

    def __init__(self, output: Path, tmp_path: Path) -> None:
        self.output, self.tmp_path = output, tmp_path
        self.project = f"fault-{uuid.uuid4().hex[:10]}"
        self.who = identity(fault=1)
        self.failures: list[InfrastructureError] = []

    def store(self) -> Store:
        return Store.open("s3://ringflow-start", self.tmp_path / f"cache-{uuid.uuid4().hex[:6]}")

    def until_it_works(self, action: Callable, tries: int = 12):
        for _ in range(tries):
            try:
                return action()
            except InfrastructureError as error:
                self.failures.append(error)
        raise AssertionError(f"{tries} tries failed, the last with {self.failures[-1]}")

    def publish(self) -> ArtifactRef:
        store, fingerprint = self.store(), fingerprint_of(self.who)
        if found := store.committed(self.project, "sft", fingerprint):
            return found
        with Lease.acquire(store, self.project, "sft", fingerprint, ttl_s=10, wait_s=30) as lease:
            area = StoreResume(store, lease, self.tmp_path / "scratch")
            point = area.latest(_rank_reads)
            if point is None:
                place = area.place(3)
                area.save(3, self.output, {"cursor": 3}, place.holding([place.send("rank", [RANK]).file]))
                point = area.latest(_rank_reads)
            assert point.state == {"cursor": 3}
            assert {n: (point.path / n).read_bytes() for n in CONTENT} == CONTENT
            return store.publish(lease, self.output, "checkpoint", self.who, provenance())

    def fetched(self, ref: ArtifactRef) -> dict[str, bytes]:
        place = self.store().fetch(ref)
        return {name: (place / name).read_bytes() for name in CONTENT}

    def assert_right(self) -> None:
        ref = self.until_it_works(self.publish)
        assert self.until_it_works(lambda: self.fetched(ref)) == CONTENT
        root = f"{self.project}/sft/{ref.fingerprint}"
        commits = [
            name for name in self.until_it_works(lambda: self.store().objects.files(root)) if "_COMMITTED" in name
        ]
        assert commits == ["_COMMITTED"]
        assert self.until_it_works(lambda: self.store().verify(ref.uri).ok)


@pytest.fixture
def work(output: Path, tmp_path: Path, monkeypatch) -> Work:
    monkeypatch.setattr(folder, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(chunks, "REQUEST_BYTES", 2 << 20)
    return Work(output, tmp_path)


def every(nth: int, kind, method: str = "") -> Plan:
    """Every nth request (of a method) meets the fault."""
    seen = []

    def plan(asked: str, path: str, number: int) -> Fault:
        if method and asked != method:
            return NONE
        seen.append(1)
        return Fault(kind) if len(seen) % nth == 0 else NONE

    return plan


@pytest.mark.parametrize(
    ("kind", "nth", "method"),
    [
        pytest.param(
            "error", 3, "", marks=pytest.mark.fault(FAULT, "every third request gets 503", "right bytes, one commit")
        ),
        pytest.param(
            "truncate", 2, "GET", marks=pytest.mark.fault(FAULT, "every second body is cut", "right bytes, one commit")
        ),
        pytest.param(
            "reset", 4, "", marks=pytest.mark.fault(FAULT, "every fourth request is cut off", "right bytes, one commit")
        ),
        pytest.param(
            "lose answer",
            3,
            "PUT",
            marks=pytest.mark.fault(FAULT, "every third write is done, its answer lost", "right bytes, one commit"),
        ),
    ],
)
def test_right_bytes_and_one_commit(kind, nth, method, proxy, work) -> None:
    proxy.plan = every(nth, kind, method)
    work.assert_right()
    assert any(spoiled[0] == kind for spoiled in proxy.spoiled)


@pytest.mark.fault(FAULT, "the answer to the commit itself is lost", "recognised as our own, not as a conflict")
def test_a_commit_whose_answer_is_lost_is_ours(proxy, work) -> None:
    proxy.plan = lambda method, path, number: Fault("lose answer") if "_COMMITTED" in path and method == "PUT" else NONE
    work.assert_right()
    assert ("lose answer", "PUT") in {spoiled[:2] for spoiled in proxy.spoiled}


@pytest.mark.fault(FAULT, "half a second for every answer", "slower, and right")
def test_slow_answers(proxy, work) -> None:
    proxy.plan = lambda method, path, number: Fault("slow", 0.5)
    work.assert_right()
    assert not work.failures


@pytest.mark.fault(FAULT, "no answer at all", "InfrastructureError at the read deadline")
def test_a_server_that_never_answers_is_a_named_failure_at_the_deadline(proxy, work, monkeypatch) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 1)
    proxy.plan = lambda method, path, number: Fault("stall")
    began = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1"):
        work.publish()
    assert time.monotonic() - began < 60


@pytest.mark.fault(FAULT, "other bytes under an artifact's name", "refused with both digests, never used")
def test_other_bytes_are_refused(proxy, work) -> None:
    ref = work.publish()
    key = f"{work.store().key(ref.uri)}/files/weights/b.bin"
    spoilt = work.tmp_path / "spoilt"
    spoilt.write_bytes(b"\xff" * 70_000 + b"\xfe")
    work.store().objects.put(spoilt, key, file_sha256(spoilt))
    with pytest.raises(IntegrityError, match=r"weights/b\.bin has sha256 [0-9a-f]{64}, recorded [0-9a-f]{64}"):
        work.fetched(ref)
