"""Damaged bytes in the store, found by the run that would have used them: never computed with, never committed."""

from __future__ import annotations

import pytest

from components.artifacts.store import Store
from tests.faults.mini import World

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]


def flip(store: Store, key: str) -> None:
    """One bit of an object's last byte."""
    data = bytearray(store.objects.read(key).data)
    data[-1] ^= 1
    store.objects.remove(key)
    assert store.objects.create(key, bytes(data))


def resume_files(store: Store, world: World, step: int) -> list[str]:
    names = store.objects.files(f"{world.project}/corpus")
    return [f"{world.project}/corpus/{name}" for name in names if f"-{step:08d}/files/" in name]


@pytest.mark.fault("a bit flipped in a checkpoint", "the newest resume point", "skipped; goes on from the one before")
def test_a_flipped_bit_in_a_checkpoint_costs_the_steps_since_the_one_before(world: World) -> None:
    failure = world.touch("fail-corpus", "Diverged")
    assert not world.run().succeeded
    store = Store.open()
    [newest] = resume_files(store, world, 2)
    flip(store, newest)
    failure.unlink()
    world.assert_whole(world.run())
    assert world.calls()["corpus 1"] == 1
    assert world.calls()["corpus 2"] == 2


@pytest.mark.fault("a missing shard of a checkpoint", "the newest resume point", "skipped; goes on from the one before")
def test_a_missing_shard_is_found_before_anything_is_trained_on_it(world: World) -> None:
    failure = world.touch("fail-corpus", "Diverged")
    assert not world.run().succeeded
    store = Store.open()
    [newest] = resume_files(store, world, 2)
    store.objects.remove(newest)
    failure.unlink()
    world.assert_whole(world.run())
    assert world.calls()["corpus 2"] == 2


@pytest.mark.fault("a bit flipped in an artifact", "an input, before its consumer runs", "refused with both digests")
def test_a_flipped_bit_in_an_input_stops_its_consumer(world: World) -> None:
    failure = world.touch("fail-decontaminate", "Diverged")
    corpus = world.run().stages[0].ref
    failure.unlink()
    store = Store.open()
    flip(store, f"{store.key(corpus.uri)}/files/sources.json")
    flip(store, f"{store.key(corpus.uri)}/files/count.json")
    # This machine's cache still has the right bytes; another one's has not.
    world.forget_cache()
    result = world.run()
    assert [stage.state for stage in result.stages] == ["reused", "failed"]
    assert "count.json has sha256" in result.message()
    assert "recorded" in result.message()
    assert not store.verify(corpus.uri).ok


@pytest.mark.fault("a missing shard of an artifact", "before it is reused", "refused, named; plan says DAMAGED")
def test_a_missing_file_of_an_artifact_is_refused_and_foretold(world: World) -> None:
    corpus = world.run().stages[0].ref
    store = Store.open()
    store.objects.remove(f"{store.key(corpus.uri)}/files/count.json")
    plan = world.plan()
    assert plan["corpus"].verdict == "DAMAGED"
    assert plan["decontaminate"].verdict == "BLOCKED"
    result = world.run()
    assert [stage.state for stage in result.stages] == ["failed", "skipped"]
    assert "count.json has no bytes" in result.message()
    assert "restore the files" in result.message()
