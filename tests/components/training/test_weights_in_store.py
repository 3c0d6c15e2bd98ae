"""A stage's weights as ranks of other hosts send and read them: to and from a real S3 server, every byte proven.

Processes with nothing but an empty directory of their own, as in test_shards_in_store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from components.artifacts import chunks, stored
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.outbox import Outbox
from components.artifacts.ref import ArtifactRef
from components.artifacts.stored import RECORD, Stored
from components.failures import BadInput, InfrastructureError, IntegrityError
from components.model.hf import INDEX
from components.model.layout import UNDIVIDED
from components.model.wire import WeightShards
from components.recipe.execution import ExecutionConfig
from components.training.group import LearnerGroup
from components.training.learner import Learner
from tests.components.artifacts.conftest import s3_endpoint, s3_environment  # noqa: F401  (fixtures)
from tests.components.artifacts.test_store import identity, provenance
from tests.components.training.test_layouts import MODEL, OPTIMISER, learner_of
from tests.components.training.test_shards_in_store import (
    CHUNK,
    DATA,
    EXPERTS,
    FOUR,
    SHAPES,
    TWO,
    Driver,
    driver,  # noqa: F401  (a fixture)
    sized,
    team,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture
def small(monkeypatch) -> None:
    for module in (chunks, stored):
        monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(chunks, "GAP_BYTES", 0)


def publish(driver: Driver, output: Path, dtype: str = "float32") -> tuple[ArtifactRef, dict[str, np.ndarray]]:  # noqa: F811
    """A model in several files as an artifact, and its weights."""
    from components.model.hf import hf_state, write_hf_directory
    from components.model.tokenizer import load_tokenizer

    learner = learner_of(UNDIVIDED, 0)
    learner.initialise(8)
    tensors = hf_state(learner.model, learner.spec)
    write_hf_directory(output / "model", learner.spec, tensors, load_tokenizer("nano"), dtype, shard_bytes=1 << 20)
    ref = driver.store.publish(driver.lease, output, "checkpoint", identity(shards=1), provenance())
    return ref, learner.weights()


def covering(driver: Driver, ref: ArtifactRef, held: list[tuple]) -> int:  # noqa: F811
    """Bytes of the chunks with rows that a rank needs, and with the headers of the files they are in."""
    objects, base = driver.store.objects, f"{driver.store.key(ref.uri)}/files/model"
    weight_map = json.loads(objects.read(f"{base}/{INDEX}").data)["weight_map"]
    needed = set()
    for _, name, starts, sizes in held:
        data = objects.read(f"{base}/{weight_map[name]}").data
        length = 8 + int.from_bytes(data[:8], "little")
        entry = json.loads(data[8:length])[name]
        width = 4 * math.prod(entry["shape"][1:])
        first = length + entry["data_offsets"][0] + starts[0] * width
        for low, high in ((0, min(64 << 10, len(data))), (first, first + sizes[0] * width)):
            for number in range(low // CHUNK, (high - 1) // CHUNK + 1):
                needed.add((weight_map[name], number, min(CHUNK, len(data) - number * CHUNK)))
    return sum(size for *_, size in needed)


def test_ranks_read_of_an_artifact_what_they_need_and_send_their_share(driver, tmp_path, monkeypatch, small):  # noqa: F811
    ref, weights = publish(driver, tmp_path / "output")
    total = sum(entry.size for entry in driver.store.read_manifest(ref).files if "safetensors" in entry.path)
    place = driver.store.locate(ref, "model")
    for number, layout in enumerate((TWO, FOUR, EXPERTS), 2):
        with team(layout, monkeypatch) as learners:
            sized(learners)
            learners.load_hf(place)
            read = learners._call("take_count")
            shards = learners._call("shard")
            whole = dict(WeightShards(tuple(part for part, _ in shards), tuple(data for _, data in shards)).items())
            assert whole.keys() == weights.keys()
            for name, value in weights.items():
                np.testing.assert_array_equal(whole[name], value, err_msg=name)
            learners._call("configure", OPTIMISER, 1, 0.0)
            held = [[block for block in rank if block[0] == "master"] for rank in learners._call("held", False)]
            assert read == [covering(driver, ref, each) for each in held]
            assert layout is TWO or max(read) < 0.75 * total
            sent, largest = send(driver, learners, number, tmp_path / "written")
            assert largest < 2.1 * total / layout.world
            found = load(driver.store.locate(sent, "model"))
            assert all(np.array_equal(found[name], value) for name, value in weights.items())
            if layout is FOUR:
                send_reward(driver, learners, 9, tmp_path / "written")


@contextmanager
def attempt(driver: Driver, number: int) -> Iterator[tuple[Lease, Outbox, dict]]:  # noqa: F811
    """Of an artifact of its own."""
    who = identity(shards=number)
    with Lease.acquire(driver.store, "p", "base", fingerprint_of(who), ttl_s=30, wait_s=5) as lease:
        yield lease, driver.store.outbox(lease), who


def send(driver: Driver, learners: LearnerGroup, number: int, written: Path) -> tuple[ArtifactRef, int]:  # noqa: F811
    """An artifact that ranks sent, which is whole and has every value once; bytes of the largest share."""
    written.mkdir(exist_ok=True)
    with attempt(driver, number) as (lease, outbox, who):
        outbox.add("model", learners.write_hf(outbox.place("model"), "nano"))
        ref = driver.store.publish(lease, written, "checkpoint", who, provenance(), outbox=outbox)
    assert driver.store.verify(ref.uri).ok
    place, objects = driver.store.locate(ref, "model"), driver.store.objects
    files = [place.place.entry(place.path(name)) for name in place.names() if name.endswith(".safetensors")]
    assert len(files) == learners.world, "each sent a file"
    seen: list[str] = []
    recorded = json.loads(place.place.read(RECORD))
    for entry in files:
        data = objects.read(f"{place.place.key}/{entry.path}").data
        tensors = safetensors.torch.load(data)
        seen += tensors
        assert entry.size == 8 + int.from_bytes(data[:8], "little") + sum(4 * t.numel() for t in tensors.values())
        if recorded["chunk_bytes"] == CHUNK:
            digests = [chunks.chunk_digest(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]
            assert recorded["files"][entry.path] == digests
    assert sorted(seen) == sorted(SHAPES), "every tensor once"
    return ref, max(entry.size for entry in files)


def send_reward(driver: Driver, learners: LearnerGroup, number: int, written: Path) -> None:  # noqa: F811
    learners._call("configure", OPTIMISER, 1, 0.0, True)
    with attempt(driver, number) as (lease, outbox, who):
        outbox.add("", learners.write_reward(outbox.place(), "nano"))
        ref = driver.store.publish(lease, written, "reward-model", who, provenance(), outbox=outbox)
    assert driver.store.verify(ref.uri).ok
    assert {"head.safetensors"} == set(driver.store.locate(ref).names())
    learners.load_reward(driver.store.locate(ref))
    texts = [np.arange(3, 20, dtype=np.int64), np.arange(5, 12, dtype=np.int64)]
    assert learners.score(texts).tolist() == [0.0, 0.0], "the head is drawn at zero"


@pytest.mark.fault("kill -9 of a learner rank", "while it sends its part of the result", "a new attempt")
def test_a_rank_that_dies_with_its_file_sent_leaves_no_artifact(driver, tmp_path, monkeypatch):  # noqa: F811
    with attempt(driver, 2) as (lease, outbox, _):
        with team(TWO, monkeypatch) as learners:
            learners.initialise(8)
            learners._workers.call_one(1, "die_in_upload", "put_object", deadline_s=10)
            with pytest.raises(InfrastructureError, match="rank 1 died during send_weights"):
                learners.write_hf(outbox.place("model"), "nano")
            assert not learners.alive()
        there = driver.store.objects.files(f"{outbox.attempt}/files")
        assert "model/model-00002-of-00002.safetensors" in there
        assert driver.store.committed("p", "base", lease.fingerprint) is None
    with team(DATA, monkeypatch) as learners:
        learners.initialise(8)
        _, largest = send(driver, learners, 2, tmp_path / "written")
        assert largest < 0.7 * 4 * sum(map(math.prod, SHAPES.values())), "of equal ranks each sends some"


def load(place: Stored) -> dict[str, np.ndarray]:
    learner = Learner(0, 1, MODEL, ExecutionConfig(), 1)
    learner.load_hf(place)
    return learner.weights()


def test_damage_is_named_and_older_artifacts_are_read_whole(driver, tmp_path, small):  # noqa: F811
    ref, weights = publish(driver, tmp_path / "output")
    place = driver.store.locate(ref, "model")
    older = Stored(place.place.holding(entry for entry in place.place.files if entry.path != RECORD), place.folder)
    for source in (place, older, Stored.local(tmp_path / "output" / "model")):
        found = load(source)
        assert all(np.array_equal(found[name], value) for name, value in weights.items())
    objects = driver.store.objects
    victim = next(name for name in place.names() if name.startswith("model-00002"))
    key = f"{place.place.key}/{place.path(victim)}"
    data = bytearray(objects.read(key).data)
    data[-3] ^= 1
    objects.remove(key)
    assert objects.create(key, bytes(data))
    with pytest.raises(IntegrityError, match=rf"{victim}: part, bytes \d+ to {len(data)}: xxh3_128 is"):
        load(place)
    with pytest.raises(IntegrityError, match=rf"{victim} has sha256"):
        load(older)
    report = driver.store.verify(ref.uri)
    assert [problem.split(" has ")[0] for problem in report.problems] == [f"wrong content: model/{victim}"]


def test_what_is_missing_or_of_another_shape_is_told(driver, tmp_path):  # noqa: F811
    ref, _ = publish(driver, tmp_path / "output", "bfloat16")
    found = load(driver.store.locate(ref, "model"))
    assert all(value.dtype == np.float32 for value in found.values())
    index = tmp_path / "output" / "model" / INDEX
    content = json.loads(index.read_text())
    file = content["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(content))
    assert load(Stored.local(index.parent)), "the file has it all the same"
    content["weight_map"] = {name: place for name, place in content["weight_map"].items() if place != file}
    index.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"tensors are missing, the first is .*download it again"):
        load(Stored.local(index.parent))
    content["weight_map"]["model.odd.weight"] = file
    index.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"tensor model\.odd\.weight is not part of nano"):
        load(Stored.local(index.parent))
    (index.parent / "model-00001-of-00002.safetensors").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="the artifact has no other"):
        driver.store.locate(ref, "other")
