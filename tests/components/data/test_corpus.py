"""What a CorpusWriter gathers in bounded memory equals what one sees with everything in memory."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.corpus import CorpusWriter
from components.data.dedup import check_disjoint
from components.data.gate_tables import drift_table, total_variation
from components.data.repeats import KeyLog
from components.data.schema import BenchmarkItem, Message, PreferenceRecord, RlRecord, SftRecord, Verifier
from components.data.statistics import columns, measure


def asked(number):
    return (Message(role="user", content=f"What is twice the number {number}?"),)


def rl(number, **more):
    verifier = Verifier(kind="math", reference={"answer": str(number)})
    kind = BenchmarkItem if "benchmark" in more else RlRecord
    return kind(
        id=f"{number:016x}",
        source=f"a#{number}",
        domain="math",
        family="f",
        prompt=asked(number),
        verifier=verifier,
        **more,
    )


def sft(number, response="four"):
    return SftRecord(
        id=f"{number:016x}", source="b", domain="code", family="f", prompt=asked(number), response=response
    )


def pair(number):
    return PreferenceRecord(
        id=f"{number * 7919 % 65536:016x}", source="c", prompt=asked(number), chosen="a", rejected="b"
    )


def gathered(tmp_path, places, sample=10_000, memory=1 << 20):
    with CorpusWriter(tmp_path / "out", tmp_path / "scratch", sample, memory) as writer:
        for place, records in places.items():
            writer.open(place)
            for record in records:
                writer.add(place, record, measure(record, len))
        return writer.finish()


@pytest.mark.parametrize("memory", [2_000, 1 << 20])  # with and without partitions on disk
def test_repeats_and_overlaps_are_those_of_the_lists(tmp_path, memory):
    data = {
        "sft": [sft(n % 40) for n in range(90)] + [sft(500, "other")],
        "rl": [rl(n) for n in (*range(30, 60), 31, 500)],
        "preference": [pair(n) for n in range(45, 50)],
    }
    benchmarks = {"b": [rl(n, benchmark="b") for n in (1, 2, 31)]}
    found = gathered(tmp_path, {**data, "benchmark:b": benchmarks["b"]}, memory=memory)
    split = {**data, "preference": [], "preference_heldout": []}
    for name in ("preference", "preference_heldout"):
        lines = (tmp_path / "out" / "data" / f"{name}.jsonl").read_text().splitlines()
        split[name] = [PreferenceRecord(**json.loads(line)) for line in lines]
    assert len(split["preference_heldout"]) == 1
    elsewhere = {}
    for overlap in check_disjoint(split, benchmarks):
        elsewhere.setdefault(overlap.split, set()).add(overlap.item)
    for name, rows in split.items():
        expected = columns(rows, len, elsewhere.get(name, ()))
        assert [row["duplicate"] for row in found[name].rows] == expected["duplicate"]
        assert [row["in_other_split"] for row in found[name].rows] == expected["in_other_split"]
        assert found[name].totals.duplicates == sum(expected["duplicate"])
        assert found[name].totals.elsewhere == sum(expected["in_other_split"])


def test_the_held_out_pairs_are_those_with_the_smallest_ids(tmp_path):
    pairs = [pair(n) for n in range(200)]
    found = gathered(tmp_path, {"preference": pairs})
    smallest = {record.id for record in sorted(pairs, key=lambda record: record.id)[:20]}
    assert {row["id"] for row in found["preference_heldout"].rows} == smallest
    assert found["preference"].totals.records == 180
    own = gathered(tmp_path / "own", {"preference": pairs, "preference_heldout": [pair(999)]})
    assert (own["preference"].totals.records, own["preference_heldout"].totals.records) == (200, 1)


def test_the_sample_is_stable_and_the_totals_exact(tmp_path):
    rows = [rl(n) for n in range(300)]
    small = gathered(tmp_path / "a", {"rl": rows}, sample=50)["rl"]
    again = gathered(tmp_path / "b", {"rl": rows}, sample=50)["rl"]
    assert len(small.rows) == 50
    assert small.rows == again.rows
    assert [row["id"] for row in small.rows] == sorted(row["id"] for row in small.rows)
    assert small.totals.records == 300
    assert small.totals.as_json()["domains"] == {"math": 300}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["x", "y", "z"])), max_size=80), st.integers(40, 5000))
def test_key_log_equals_sets(tmp_path_factory, entries, memory):
    log = KeyLog(tmp_path_factory.mktemp("keys"), memory)
    positions = {"x": 0, "y": 0, "z": 0}
    kept = []
    for key, group in entries:
        log.add(key.to_bytes(16, "big"), group, positions[group])
        kept.append((key, group, positions[group]))
        positions[group] += 1
    every = {group: set(range(count)) for group, count in positions.items()}
    repeated = log.repeated(every)
    elsewhere = log.elsewhere(every, ["z", "y", "x"])
    for group in positions:
        own = [key for key, other, _ in kept if other == group]
        assert repeated.flagged[group] == {at for at, key in enumerate(own) if key in own[:at]}
        before = {"z": set(), "y": {"z"}, "x": {"z", "y"}}[group]
        earlier = {key for key, other, _ in kept if other in before}
        assert elsewhere.flagged[group] == {at for at, key in enumerate(own) if key in earlier}
        assert repeated.counts[group] == len(repeated.flagged[group])


def test_drift_is_the_distance_of_distributions():
    assert total_variation({"a": 1, "b": 1}, {"a": 10, "b": 10}) == 0
    assert total_variation({"a": 1}, {"b": 1}) == 1
    assert total_variation({"a": 3, "b": 1}, {"a": 1, "b": 1}) == 0.25
    before = {"sft": {"domains": {"math": 1}, "log2_tokens": {"3": 2}}}
    table = drift_table({**before, "rl": {"domains": {"math": 1}, "log2_tokens": {"3": 1}}}, before)
    assert dict(zip(table["id"], table["distance"], strict=True)) == {
        "rl/domains": 1.0,
        "rl/log2_tokens": 1.0,
        "sft/domains": 0.0,
        "sft/log2_tokens": 0.0,
    }
