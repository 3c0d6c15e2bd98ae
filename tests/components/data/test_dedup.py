"""Duplicates: exact and near, the first survives, siblings with other numbers stay."""

import random
import tracemalloc

import pyarrow.parquet as pq
import pytest

from components.data.dedup import (
    check_disjoint,
    deduplicate,
    deduplicate_files,
    prompt_key,
    record_key,
    write_duplicates,
)
from components.data.jsonl import read_corpus, write_corpus
from components.data.schema import Message, PreferenceRecord, RlRecord, SftRecord, Verifier

STORY = (
    "The old lighthouse on the northern cape was built by three brothers who had lost their ship in the great storm, "
    "and every evening one of them climbs the 212 steps to light the lamp for the fishing boats that come home late."
)


def sft(text, name, source="a"):
    prompt = (Message(role="user", content="Tell me a story."),)
    return SftRecord(id=name, source=source, domain="general", family="f", prompt=prompt, response=text)


def pair(name, prompt="Say hello to Ann and ask her how she is today.", chosen="Hello Ann, how are you?"):
    message = (Message(role="user", content=prompt),)
    return PreferenceRecord(id=name, source="s", prompt=message, chosen=chosen, rejected="No.")


def test_exact_duplicates_keep_the_first():
    verifier = Verifier(kind="math", reference={"answer": "4"})
    rows = [
        RlRecord(
            id=str(n),
            source="s",
            domain="math",
            family="f",
            verifier=verifier,
            prompt=(Message(role="user", content=t),),
        )
        for n, t in enumerate(["What is 2+2?", "what  IS 2+2", "What is 2-2?"])
    ]
    kept, dropped = deduplicate(rows)
    assert [record.id for record in kept] == ["0", "2"]
    assert (dropped[0].item, dropped[0].survivor, dropped[0].kind) == ("1", "0", "exact")


def test_near_duplicates_across_sources_and_siblings():
    rows = [
        sft(STORY, "first", "a"),
        sft(STORY.replace("great storm", "big storm"), "near", "b"),
        sft(STORY.replace("212", "340"), "sibling", "b"),
        sft(STORY.upper().replace(",", ""), "exact", "c"),
        sft("Another story altogether, about a cat that could not sleep and counted all the stars.", "other", "c"),
    ]
    kept, dropped = deduplicate(rows, threshold=0.8)
    assert [record.id for record in kept] == ["first", "sibling", "other"]
    found = {duplicate.item: duplicate for duplicate in dropped}
    assert (found["near"].survivor, found["near"].kind, found["near"].source) == ("first", "near", "b")
    assert 0.8 <= found["near"].similarity < 1
    assert (found["exact"].survivor, found["exact"].kind) == ("first", "exact")
    assert deduplicate(rows, threshold=0.8) == (kept, dropped)


def test_long_documents_may_differ_in_a_date():
    parts = [
        f"In chapter {n} the brothers mend sail number {7 * n} and sing about harbour {n * n}." for n in range(1, 40)
    ]
    page = " ".join(parts)
    rows = [sft(page, "a"), sft(f"Printed on 24 May. {page}", "b"), sft(" ".join(parts[20:] + parts[:4]), "c")]
    kept, _ = deduplicate(rows, threshold=0.8)
    assert [record.id for record in kept] == ["a", "c"]


def test_a_written_corpus_loses_duplicates_and_keeps_bytes(tmp_path):
    data = {
        "sft": [sft(STORY, "1"), sft("Short.", "2"), sft(STORY, "3")],
        "preference": [pair("4"), pair("5", "Say goodbye to Bob and wish him a safe way home.")],
        "preference_heldout": [pair("6")],
    }
    write_corpus(tmp_path, data, {})
    before = (tmp_path / "data" / "sft.jsonl").read_text().splitlines()
    assert deduplicate_files(tmp_path, 0.8) == {"sft": {"exact": 1}, "preference": {"exact": 1}}
    assert (tmp_path / "data" / "sft.jsonl").read_text().splitlines() == before[:2]
    left = read_corpus(tmp_path)
    assert [[record.id for record in left[name]] for name in ("preference", "preference_heldout")] == [["5"], ["6"]]
    rows = pq.read_table(tmp_path / "duplicates.parquet").to_pylist()
    assert [(row["split"], row["item"], row["survivor"]) for row in rows] == [
        ("sft", "3", "1"),
        ("preference", "4", "6"),
    ]


def test_records_stream_and_leave_little_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("components.data.dedup.BATCH", 50)
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=7)) for _ in range(5000)]

    def peak(count):
        path = tmp_path / str(count) / "data" / "sft.jsonl"
        path.parent.mkdir(parents=True)
        with path.open("w") as stream:
            for n in range(count):
                stream.write(sft(" ".join(draw.choices(words, k=1500)), f"{n:016x}").model_dump_json() + "\n")
        tracemalloc.start()
        assert deduplicate_files(path.parents[1], 0.8) == {}
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(100)  # imports and compiled kernels
    assert peak(3000) - peak(1000) < 2000 * 3000  # a record has 12,000 characters


def test_no_duplicates_is_a_valid_file(tmp_path):
    write_duplicates(tmp_path / "duplicates.parquet", {})
    assert pq.read_table(tmp_path / "duplicates.parquet").num_rows == 0


@pytest.mark.parametrize("key", [record_key, prompt_key])
def test_keys_are_of_the_text_alone(key):
    assert key(sft(STORY, "1")) == key(sft(STORY, "2", "elsewhere"))


def test_questions_in_two_places_are_told():
    data = {"sft": [sft("x", "1")], "rl": [], "preference": [pair("2", "tell me a STORY")]}
    (overlap,) = check_disjoint(data, {})
    assert (overlap.split, overlap.item, overlap.other_split) == ("sft", "1", "preference")
