"""Resume points of ranks that share no directory: on a real S3 server, under other layouts, killed, damaged.

Two and four gloo processes, each with an empty directory of its own; the driver is this process.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load

from components.artifacts import chunks
from components.artifacts.context import ResumePoint
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.resume import StoreResume, resume_step
from components.artifacts.store import Store
from components.failures import InfrastructureError
from components.model.layout import Layout
from components.model.shards import tensor_shapes
from components.model.spec import PRESETS
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.training import blocks
from components.training.group import LearnerGroup
from tests.components.artifacts.conftest import KEY, SECRET, s3_endpoint, s3_environment  # noqa: F401  (fixtures)
from tests.components.artifacts.test_store import identity
from tests.components.training.ranks import Processes

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

TWO, DATA = Layout(2, tensor=2), Layout(2)
FOUR = Layout(4, tensor=2, pipeline=2)
EXPERTS = Layout(4, expert=4)
SHAPES = tensor_shapes(PRESETS["nano"])
CHUNK = 16384  # so that a block of this small model has several


class Driver:
    """The host of the flow: it has the lease and sees no rank's directory."""

    def __init__(self, lease: Lease, store: Store, scratch: Path) -> None:
        self.store, self.scratch, self.lease = store, scratch, lease
        self.area = StoreResume(store, lease, scratch / "area")
        self.root = f"{lease.project}/{lease.stage}/{lease.fingerprint}/resume"

    def save(self, learners: LearnerGroup, step: int) -> list[int]:
        """Saves a point; bytes that each rank sent."""
        directory = self.scratch / f"step-{step}"
        directory.mkdir()
        place = learners.save_resume(directory, self.area.place(step))
        self.area.save(step, directory, {"at": step}, place)
        assert not list(directory.rglob("*.safetensors")), "nothing that ranks hold passes through the driver"
        return [entry.size for entry in place.files]

    def point(self, step: int) -> str:
        [name] = {key.split("/")[0] for key in self.store.objects.files(self.root) if f"-{step:08d}/" in key}
        return f"{self.root}/{name}/files/learner"

    def index(self, step: int) -> list[dict]:
        return json.loads(self.store.objects.read(f"{self.point(step)}/index.json").data)["blocks"]

    def whole(self, step: int) -> dict[tuple[str, str], bytes]:
        """(moment, name) -> the whole tensor, put together as anybody reads safetensors."""
        found: dict[tuple[str, str], np.ndarray] = {}
        files = {}
        for block in self.index(step):
            path = block["path"]
            if path not in files:
                files[path] = load(self.store.objects.read(f"{self.point(step)}/{path}").data)
            values = files[path][f"{block['moment']}/{block['name']}/{','.join(map(str, block['starts']))}"].numpy()
            name = (block["moment"], block["name"])
            target = found.setdefault(name, np.full(SHAPES[block["name"]], np.nan, np.float32))
            place = tuple(slice(start, start + size) for start, size in zip(block["starts"], values.shape, strict=True))
            assert np.isnan(target[place]).all(), "every value once"
            target[place] = values
        assert not any(np.isnan(tensor).any() for tensor in found.values())
        return {name: tensor.tobytes() for name, tensor in found.items()}


@pytest.fixture
def driver(s3_environment, tmp_path) -> Iterator[Driver]:  # noqa: F811
    Processes.keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    Processes.private = tmp_path / "hosts"
    Processes.private.mkdir()
    store = Store.open(f"s3://shards-{uuid.uuid4().hex[:12]}", tmp_path / "cache")
    store.check(60, create=True)
    with Lease.acquire(store, "p", "base", fingerprint_of(identity(shards=1)), ttl_s=30, wait_s=5) as lease:
        yield Driver(lease, store, tmp_path)


@contextmanager
def team(layout: Layout, monkeypatch, **more) -> Iterator[LearnerGroup]:
    monkeypatch.setattr("components.cluster.workers.WorkerGroup", Processes)
    execution = ExecutionConfig(**layout.settings(), **more, step_deadline_s=200, start_deadline_s=200)
    learners = LearnerGroup(ModelConfig(preset="nano"), execution, seed=0)
    try:
        yield learners
        assert not any(Processes.private.rglob("host-*/*")), "no rank put anything on a disk"
    finally:
        learners.close()


def sized(learners: LearnerGroup, chunk: int = CHUNK, gap: int = 0) -> None:
    learners._call("set_sizes", chunk, gap)


def covering(driver: Driver, step: int, held: list[tuple]) -> int:
    """Bytes of the chunks with rows that a rank needs, from the index and the layout alone."""
    needed = set()
    for block in driver.index(step):
        width = 4 * int(np.prod(block["sizes"][1:]))
        for moment, name, starts, sizes in held:
            if (moment, name) != (block["moment"], block["name"]):
                continue
            spans = [
                (max(a, b) - b, min(a + n, b + m) - b)
                for a, n, b, m in zip(starts, sizes, block["starts"], block["sizes"], strict=True)
            ]
            if all(low < high for low, high in spans):
                first, last = spans[0][0] * width // CHUNK, (spans[0][1] * width - 1) // CHUNK
                total = width * block["sizes"][0]
                for number in range(first, last + 1):
                    size = min(CHUNK, total - number * CHUNK)
                    needed.add((block["path"], block["offset"] + number * CHUNK, size))
    return sum(size for *_, size in needed)


def test_ranks_send_and_read_what_their_layout_says_and_nothing_else(driver, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK_BYTES", CHUNK)
    with team(TWO, monkeypatch) as learners:
        sized(learners)
        assert len(set(learners._call("train_once"))) == 1
        sent = driver.save(learners, 1)
        values = learners._call("values_held", True)
        for number, (size, count) in enumerate(zip(sent, values, strict=True)):
            path = f"{driver.point(1)}/rank-{number:05d}.safetensors"
            header = 8 + int.from_bytes(driver.store.objects.read_part(path, 0, 8), "little")
            assert size == header + 4 * count, "its blocks once, and a header"
        onward = learners._call("train_more")
        # Under the layout that saved, a rank reads its own values, and the few that another one of equal ranks sent.
        assert driver.area.latest(learners.load_resume).step == 1
        held = learners._call("values_held", False)
        assert learners._call("take_count") == [4 * count for count in held]
        assert learners._call("train_more") == onward
    for number, layout in enumerate((FOUR, EXPERTS, DATA), 2):
        with team(layout, monkeypatch, distributed_optimiser=layout is EXPERTS) as learners:
            sized(learners)
            assert driver.area.latest(learners.load_resume).step == number - 1
            read = learners._call("take_count")
            if layout is not EXPERTS:
                expected = [covering(driver, number - 1, held) for held in learners._call("held", False)]
                assert read == expected
            driver.save(learners, number)
            assert max(read) < 0.9 * sum(block_bytes(driver, number)) or layout is DATA
        assert driver.whole(number) == driver.whole(number - 1), "bit for bit"


def block_bytes(driver: Driver, step: int) -> list[int]:
    return [4 * int(np.prod(block["sizes"])) for block in driver.index(step)]


@pytest.mark.fault("kill -9 of a learner rank", "while it sends its part of a resume point", "the point before it")
def test_a_rank_that_dies_in_its_upload_leaves_an_invisible_point(driver, monkeypatch):
    with team(TWO, monkeypatch) as learners:
        learners._call("train_once")
        driver.save(learners, 1)
        onward = learners._call("train_more")
        learners._workers.call_one(1, "die_in_upload", deadline_s=10)
        with pytest.raises(InfrastructureError, match="rank 1 died during save_resume"):
            driver.save(learners, 2)
        assert not learners.alive()
    uploads = [upload for upload in driver.store.objects.uploads() if "-00000002/" in upload.key]
    assert uploads, "it was killed in the middle"
    assert resume_step(driver.store, driver.lease.project, driver.lease.stage, driver.lease.fingerprint) == 1
    with team(TWO, monkeypatch) as learners:
        assert driver.area.latest(learners.load_resume).step == 1
        assert learners._call("train_more") == onward


@pytest.mark.fault("a bit flipped in a checkpoint", "in a rank's block", "found by who reads it; the point before")
def test_a_flipped_bit_is_found_by_the_rank_that_reads_it_before_a_weight_is_touched(driver, monkeypatch, caplog):
    with team(TWO, monkeypatch) as learners:
        learners._call("train_once")
        driver.save(learners, 1)
        learners._call("train_more")
        driver.save(learners, 2)
        victim = next(b for b in driver.index(2) if b["path"].startswith("rank-00001") and b["moment"] == "second")
        flip(driver, 2, victim)
        point = driver.area.latest(learners.load_resume)
        assert point.step == 1
        said = f"rank-00001.safetensors: second of {victim['name']} from"
        assert said in caplog.text
        assert "xxh3_128 is" in caplog.text
        learners._call("train_more")
        driver.save(learners, 3)
        before = driver.whole(3)
        # With every point damaged nothing is taken over: weights are as if the ranks had not been asked.
        flip(driver, 3, driver.index(3)[0])
        assert driver.area.latest(learners.load_resume) is None
        assert learners.alive()
        driver.save(learners, 4)
        after = driver.whole(4)
        assert {name: after[name] for name in after if name[0] == "master"} == {
            name: before[name] for name in before if name[0] == "master"
        }


def flip(driver: Driver, step: int, block: dict) -> None:
    key = f"{driver.point(step)}/{block['path']}"
    data = bytearray(driver.store.objects.read(key).data)
    data[block["offset"] + 1] ^= 4
    driver.store.objects.remove(key)
    assert driver.store.objects.create(key, bytes(data))


def test_a_file_of_a_rank_that_is_gone_is_missed_before_anything_is_read(driver, monkeypatch, caplog):
    with team(DATA, monkeypatch) as learners:
        learners._call("train_once")
        driver.save(learners, 1)
        driver.save(learners, 2)
        driver.store.objects.remove(f"{driver.point(2)}/rank-00001.safetensors")

        def load(point: ResumePoint) -> None:
            assert point.step == 1
            learners.load_resume(point)

        assert driver.area.latest(load).step == 1
        assert "learner/rank-00001.safetensors has no bytes" in caplog.text


def test_neighbours_come_in_one_request():
    def at(start: int, size: int, path: str = "a") -> chunks.Chunk:
        return chunks.Chunk(path, start, size, "", "", lambda data: None)

    near, far = chunks.GAP_BYTES, chunks.GAP_BYTES + 1
    asked = [at(100, 50), at(0, 100), at(150 + near, 10), at(160 + near + far, 10), at(0, 10, "b")]
    requests = list(chunks._requests(asked))
    assert [[(c.path, c.start) for c in request] for request in requests] == [
        [("a", 0), ("a", 100), ("a", 150 + near)],
        [("a", 160 + near + far)],
        [("b", 0)],
    ]
    large = [at(number * (8 << 20), 8 << 20) for number in range(9)]
    assert [len(request) for request in chunks._requests(large)] == [4, 4, 1]
