"""What a data set touched, and what differs between two lineages."""

from __future__ import annotations

import json

import pytest

from components.failures import BadInput
from components.lineage import diff, impact
from components.lineage.graph import lineage
from components.lineage.references import Catalog, resolve


def shard(name: str, split: str, digest: str) -> dict:
    return {"uri": f"s3://data/{name}.jsonl", "sha256": digest * 64, "licence": "mit", "records": 5, "split": split}


SHARDS = [shard("old-web", "pretrain", "a"), shard("chats", "sft", "b"), shard("aime", "aime", "c")]


@pytest.fixture
def world(publish):
    """Two lineages over one corpus that record what they read, and one old artifact that does not."""
    files = dict.fromkeys(("data/pretrain.jsonl", "data/sft.jsonl", "benchmarks/aime.jsonl"), "x")
    corpus = publish("corpus", "corpus", files={**files, "sources.json": json.dumps(SHARDS)})
    clean = publish("decontaminate", "clean-corpus", inputs={"corpus": corpus}, files=files, reads={"corpus": ["."]})
    base = publish("base", "checkpoint", inputs={"data": clean}, reads={"data": ["data/pretrain.jsonl"]})
    made = {"model": base, "data": clean}
    reads = {"model": ["model"], "data": ["data/sft.jsonl"]}
    sft = publish("sft", "checkpoint", {"lr": 1}, made, reads=reads, values=values(1, "nano.yaml:3"), seed=1)
    other = publish("sft", "checkpoint", {"lr": 2}, made, reads=reads, values=values(2, "--set sft.lr=2"), seed=1)
    scores = publish(
        "evaluate-sft",
        "evaluation",
        inputs={"model": sft, "corpus": corpus},
        reads={"model": ["model"], "corpus": ["benchmarks"]},
        summary={"aime": 0.25},
    )
    early = publish(
        "evaluate-base",
        "evaluation",
        inputs={"model": base, "corpus": corpus},
        reads={"model": ["model"], "corpus": ["benchmarks"]},
    )
    unknown = publish("legacy", "checkpoint", inputs={"data": clean})
    return {
        "corpus": corpus,
        "clean": clean,
        "base": base,
        "sft": sft,
        "other": other,
        "scores": scores,
        "early": early,
        "unknown": unknown,
    }


def values(lr: int, origin: str) -> dict:
    return {"sft.lr": {"value": lr, "origin": origin}, "sft.decay": {"value": 0.1, "origin": "default"}}


def touched(store, world, reference: str) -> set[str]:
    catalog = Catalog(store)
    found = impact.impact(reference, catalog, lambda name: resolve(name, store, None, catalog))
    names = {ref.uri: name for name, ref in world.items()}
    return {names[member.entry.ref.uri] for member in found.touched}


def test_a_withdrawn_shard_names_what_read_it_and_nothing_else(store, world):
    everything = set(world)
    assert touched(store, world, "a" * 64) == everything, "pre-training data is in every model"
    assert touched(store, world, "bbbbbbbb") == everything - {"base", "early"}
    assert touched(store, world, "s3://data/chats.jsonl") == everything - {"base", "early"}
    assert touched(store, world, "s3://data/*web*") == everything
    assert touched(store, world, "s3://data/aime.jsonl") == everything, "it decided what was removed"
    assert touched(store, world, world["sft"].uri) == {"sft", "scores"}
    assert touched(store, world, f"sft@{world['other'].fingerprint[:10]}") == {"other"}
    with pytest.raises(BadInput, match=r"Shards: s3://data/aime\.jsonl"):
        touched(store, world, "s3://data/nothing.jsonl")


def test_impact_says_why_and_what_was_spared(store, world):
    found = impact.impact("bbbbbbbb", Catalog(store), versions_of=lambda uris: {uris[2]: ["ring:1 @released"]})
    text = impact.render_text(found)
    assert "s3://data/chats.jsonl  5 records, mit, sha256 bbbbbbbbbbbb  in corpus@" in text
    assert "data <- decontaminate@" in text
    why = {member.entry.ref.uri: member.via for member in found.touched}
    assert [line.split(" ")[0] for line in why[world["scores"].uri]] == ["model"], "it opened the benchmarks alone"
    order = [member.entry.ref.uri for member in found.touched]
    assert order.index(world["sft"].uri) < order.index(world["scores"].uri)
    assert ": data/sft.jsonl" in text
    assert "aime 0.25" in text
    assert "= ring:1 @released" in text
    assert "made beside it without reading it: base@" in text
    plain = impact.to_json(found)
    assert {item["kind"] for item in plain["touched"]} == {"corpus", "clean-corpus", "checkpoint", "evaluation"}
    assert plain["shards"][0]["sha256"] == "b" * 64
    json.dumps(plain)


def test_an_unreadable_artifact_is_told(store, world):
    store.objects.remove(f"{store.key(world['other'].uri)}/manifest.json")
    found = impact.impact("bbbbbbbb", Catalog(store))
    assert world["other"].uri not in {member.entry.ref.uri for member in found.touched}
    assert "manifest.json is missing" in found.broken[0]
    assert "nothing is known of them" in impact.render_text(found)


def test_diff_shows_values_with_origins_and_what_is_the_same(store, world):
    same = diff.difference(lineage(store, world["sft"]), lineage(store, world["sft"]))
    assert same.changes == ()
    assert "nothing differs" in diff.render_text(same)
    found = diff.difference(lineage(store, world["sft"]), lineage(store, world["other"]))
    assert set(found.equal) == {"corpus", "decontaminate", "base"}
    change = next(change for change in found.changes if change.what == "sft.lr")
    assert (change.node, change.left, change.right) == ("sft", "1  (nano.yaml:3)", "2  (--set sft.lr=2)")
    assert {change.what for change in found.changes} == {"sft.lr", "artifact"}
    assert "sft.lr\n    A  1  (nano.yaml:3)\n    B  2  (--set sft.lr=2)" in diff.render_text(found)


def test_diff_shows_data_code_seed_and_missing_stages(store, publish, world):
    shards = [shard("old-web", "pretrain", "d"), SHARDS[1]]
    corpus = publish("corpus", "corpus", {"n": 2}, files={"sources.json": json.dumps(shards)}, git_commit="c" * 40)
    base = publish("base", "checkpoint", {"n": 2}, {"data": corpus}, seed=7)
    found = diff.difference(lineage(store, world["base"]), lineage(store, base))
    rows = {(change.node, change.what): (change.left, change.right) for change in found.changes}
    assert rows["", "s3://data/old-web.jsonl"][0].startswith("sha256 aaaaaaaaaaaa")
    assert rows["", "s3://data/old-web.jsonl"][1].startswith("sha256 dddddddddddd")
    assert rows["", "s3://data/aime.jsonl"][1] == "absent"
    assert rows["base", "seed"] == ("0", "7")
    assert rows["corpus", "git commit"] == ("none", "c" * 40)
    assert rows["base", "n"] == ("absent", "2")
    assert rows["decontaminate", "artifact"][1] == "absent"
