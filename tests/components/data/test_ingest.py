"""Streams of records from files: every layout, the field map, blocks and workers that change nothing, flat memory."""

import gzip
import itertools
import json
import tracemalloc

import pyarrow as pa
import pytest
import zstandard

from components.data.corpus import CorpusWriter
from components.data.files import scan
from components.data.ingest import Dropped, Made, ingest, stream_source
from components.data.layouts import SPLIT_LAYOUTS
from components.data.sources import Quarantined, SourceEntry, files_of_source
from components.data.statistics import measure
from components.failures import BadInput
from components.recipe.data import FieldMap, FileSource

HI = {"role": "user", "content": "Hi"}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def only(tmp_path, split, row, **source):
    found = ingest(FileSource(uri=write(tmp_path / "a.jsonl", [row]), split=split, **source))
    assert not found.quarantine, found.quarantine
    return found


GRID = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}], "test": [{"input": [[3, 4]], "output": [[4, 3]]}] * 2}
TREE = {
    "text": "Hi",
    "role": "prompter",
    "replies": [
        {"text": "No", "role": "assistant", "rank": 1, "replies": []},
        {
            "text": "Hello",
            "role": "assistant",
            "rank": 0,
            "replies": [{"text": "Bye", "role": "prompter", "rank": None, "replies": []}],
        },
    ],
}
TOOLS = {
    "messages": [
        HI,
        {"role": "assistant", "content": [{"type": "reasoning", "value": "ask"}, {"type": "tool_call", "value": "{}"}]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "Five", "reasoning_content": "it said 5"},
    ],
    "tools": [{"name": "clock"}],
}


@pytest.mark.parametrize(
    ("split", "row", "layout", "check"),
    [
        ("preference", {"prompt": "Hi", "replies": ["a", "b", "c"], "scores": [1, 3, 0.5]}, "ranked", ("b", "c")),
        ("preference", {"prompt": "Hi", "responses": ["a", "b"], "ranks": [2, 1]}, "ranked", ("b", "a")),
        (
            "preference",
            {"instruction": "Hi", "completions": [{"response": "a", "score": 2}, {"response": "b", "score": 5}]},
            "ranked",
            ("b", "a"),
        ),
        ("preference", TREE, "message-tree", ("Hello", "No")),
        ("sft", TREE, "message-tree", "Hello"),
        ("sft", {"messages": [HI, {"role": "assistant", "content": "Yo"}], "label": True}, "labelled", "Yo"),
        ("sft", {"instruction": "Add", "output": "4", "thinking": "2+2"}, "alpaca", "<think>2+2</think>4"),
        ("sft", TOOLS, "messages", "<think>it said 5</think>Five"),
        ("sft", {"problem": "2+2?", "solution": "It is \\boxed{4}."}, "problem-answer", None),
        ("rl", {"question": "Which?", "choices": ["x", "y"], "answer": 1}, "problem-answer", "B"),
        ("rl", {"question": "2+2?", "solution": "It is \\boxed{4}."}, "problem-answer", "4"),
        ("rl", GRID, "grids", "4 3"),
    ],
)
def test_layouts_are_detected_and_leave_their_trace(tmp_path, split, row, layout, check):
    found = only(tmp_path, split, row)
    record = found.records[0]
    assert found.sources[0].layout == layout
    assert (record.row, record.transformations[0]) == (1, f"layout {layout}")
    if split == "preference":
        assert (record.chosen, record.rejected) == check
    elif split == "sft" and check:
        assert record.response == check
    elif split == "rl":
        assert record.verifier.reference["answer"] == check
    if row is GRID:
        assert len(found.records) == 2
        assert record.verifier.kind == "logic"
    if row is TOOLS:
        assert record.prompt[0].content == '<tools>\n[{"name": "clock"}]\n</tools>'
        assert [message.role for message in record.prompt] == ["system", "user", "assistant", "user"]
        assert record.prompt[2].content == "<think>ask</think><tool_call>\n{}\n</tool_call>"


def test_unwanted_records_are_left_out_and_counted_not_quarantined(tmp_path):
    rows = [{"messages": [HI, {"role": "assistant", "content": "Yo"}], "label": flag} for flag in (True, False, False)]
    found = ingest(FileSource(uri=write(tmp_path / "a.jsonl", rows), split="sft"))
    assert (len(found.records), found.quarantine) == (1, [])
    assert found.sources[0].left_out == {"unwanted reply (label is false)": 2}


def test_a_field_map_reads_any_layout(tmp_path):
    row = {"meta": {"q": "2+2", "unit": "apples"}, "gold": [{"value": 4}], "ok": True, "tag": "mathematics"}
    fields = FieldMap(problem="{meta.q} {meta.unit}?", answer="gold[0].value", solution="meta.why?", family="tag")
    path = write(tmp_path / "a.jsonl", [row, {**row, "ok": False}, {**row, "gold": []}])
    found = ingest(FileSource(uri=path, split="rl", fields=fields, where={"ok": True}))
    (record,) = found.records
    assert record.prompt[0].content == "2+2 apples?"
    assert (record.verifier.reference, record.family) == ({"answer": "4"}, "mathematics")
    assert record.transformations[:2] == ("fields mapped", "layout problem-answer")
    assert found.sources[0].left_out == {"ok is not True": 1}
    assert [(row.line, row.field) for row in found.quarantine] == [(3, "gold[0].value")]


def test_a_wrong_path_in_the_field_map_names_the_nearest_field(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "2+2?", "reply": "4"}])
    source = FileSource(uri=path, split="rl", fields=FieldMap(problem="qestion", answer="reply"))
    with pytest.raises(BadInput, match=r"fields\.problem.*first record.*Did you mean 'question'"):
        ingest(source)


def test_an_unknown_layout_lists_what_the_split_understands(tmp_path):
    with pytest.raises(BadInput) as caught:
        ingest(FileSource(uri=write(tmp_path / "a.jsonl", [{"a": 1}]), split="preference"))
    assert all(name in str(caught.value) for name in SPLIT_LAYOUTS["preference"])


@pytest.mark.parametrize("kind", ["jsonl.zst", "json", "json.gz", "csv.gz", "arrow"])
def test_more_formats_give_the_same_records(tmp_path, kind):
    rows = [{"problem": f"What is {n}+1?", "answer": str(n + 1)} for n in range(5)]
    path = tmp_path / f"data.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    array = json.dumps(rows, indent=1).encode()
    if kind == "jsonl.zst":
        path.write_bytes(zstandard.compress(lines[:40]) + zstandard.compress(lines[40:]))
    elif kind == "arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv.gz":
        text = "problem,answer\n" + "".join(f'"{row["problem"]}",{row["answer"]}\n' for row in rows)
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_bytes(gzip.compress(array) if kind.endswith("gz") else array)
    found = ingest(FileSource(uri=str(path), split="rl"))
    assert [record.verifier.reference["answer"] for record in found.records] == ["1", "2", "3", "4", "5"]


def test_damage_is_told_with_its_place(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "tw')
    found = ingest(FileSource(uri=str(tmp_path / "a.json"), split="pretrain"))
    assert ([r.text for r in found.records], found.quarantine[0].line) == (["one"], 2)
    (tmp_path / "b.csv").write_text("text,more\none,1\ntwo,2,3\n")
    found = ingest(FileSource(uri=str(tmp_path / "b.csv"), split="pretrain"))
    assert "more fields than the header" in str(found.quarantine[0])
    whole = gzip.compress(b'{"text": "one"}\n' * 500)
    (tmp_path / "c.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"c\.jsonl\.gz: the gz stream is damaged"):
        ingest(FileSource(uri=str(tmp_path / "c.jsonl.gz"), split="pretrain"))
    (tmp_path / "d.jsonl").write_text('{"text": "\\ud800"}\n{"text": "fine"}\n')
    found = ingest(FileSource(uri=str(tmp_path / "d.jsonl"), split="pretrain"))
    assert "UTF-8" in found.quarantine[0].reason


def test_data_sets_saved_by_datasets_and_repositories_with_configurations(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(6)]
    datasets.disable_progress_bars()
    train = datasets.Dataset.from_list(rows[:4])
    datasets.DatasetDict({"train": train, "test": datasets.Dataset.from_list(rows[4:])}).save_to_disk(
        tmp_path / "saved"
    )
    saved = FileSource(uri=str(tmp_path / "saved"), split="rl")
    assert len(ingest(saved).records) == 4
    assert len(ingest(saved.model_copy(update={"part": "test"})).records) == 2
    with pytest.raises(BadInput, match="part is one of: train, test"):
        ingest(saved.model_copy(update={"part": "dev"}))
    repository = tmp_path / "repo"
    (repository / "data").mkdir(parents=True)
    write(repository / "data" / "hard.jsonl", rows[:3])
    write(repository / "data" / "easy.jsonl", rows[3:])
    configs = "".join(f"- config_name: {n}\n  data_files: data/{n}.jsonl\n" for n in ("easy", "hard"))
    (repository / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{configs}---\n")
    source = FileSource(uri=str(repository), split="rl", subset="hard")
    assert [name.endswith("data/hard.jsonl") for name in files_of_source(source)] == [True]
    with pytest.raises(BadInput, match="subset is one of: easy, hard"):
        files_of_source(source.model_copy(update={"subset": None}))


def numbered(path, count, bad=()):
    rows = [{"problem": f"What is {n} plus {n * 7}?", "answer": str(n * 8)} for n in range(count)]
    return write(path, ["{broken" if n in bad else row for n, row in enumerate(rows)])


def test_blocks_change_nothing(tmp_path):
    path = numbered(tmp_path / "a.jsonl", 500, bad={3, 250, 499})
    source = FileSource(uri=path, split="rl")
    whole = list(stream_source(source))
    assert len(scan(path, 1000).blocks) == 1  # cut at the end of a read, not in the middle of one
    for size in (100, 999, 5000):
        assert list(stream_source(source, block_bytes=size)) == whole
    assert [row.line for row in whole if isinstance(row, Quarantined)] == [4, 251, 500]
    limited = list(stream_source(source.model_copy(update={"limit": 7})))
    assert sum(isinstance(row, Made) for row in limited) == 7
    assert limited[-1].records == 7


def test_large_files_are_cut_into_blocks_with_their_first_line(tmp_path, monkeypatch):
    monkeypatch.setattr("components.data.files.READ_BYTES", 700)
    path = numbered(tmp_path / "a.jsonl", 300, bad={200})
    blocks = scan(path, 2000).blocks
    assert len(blocks) > 5
    source = FileSource(uri=path, split="rl")
    cut = list(stream_source(source, block_bytes=2000))
    assert cut == list(stream_source(source))
    assert [record.record.row for record in cut if isinstance(record, Made)] == [n for n in range(1, 301) if n != 201]


def test_one_worker_and_two_give_the_same_bytes(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from components.cluster.connect import connect
    from components.recipe.execution import ExecutionConfig

    monkeypatch.setattr("components.data.files.READ_BYTES", 4000)
    for number in range(3):
        numbered(tmp_path / f"{number}.jsonl", 200 + number, bad={5, 150})
    write(tmp_path / "empty.jsonl", [])
    source = FileSource(uri=str(tmp_path / "*.jsonl"), split="rl")
    one = list(stream_source(source, block_bytes=8000))
    connect(ExecutionConfig())
    assert ray.is_initialized()
    two = list(stream_source(source, workers=2, block_bytes=8000))
    assert two == one
    assert [entry.records for entry in one if isinstance(entry, SourceEntry)] == [198, 199, 200, 0]


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("components.data.files.READ_BYTES", 50_000)

    def peak(count):
        path = numbered(tmp_path / f"{count}.jsonl", count)
        source = FileSource(uri=path, split="rl")
        tracemalloc.start()
        with CorpusWriter(tmp_path / f"out{count}", tmp_path / f"scratch{count}", 50, 30_000) as writer:
            for result in stream_source(source, measure=lambda record: measure(record, len), block_bytes=100_000):
                if isinstance(result, Made):
                    writer.add("rl", result.record, result.facts)
            gathered = writer.finish()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert gathered["rl"].totals.records == count
        assert len(gathered["rl"].rows) == 50
        return used

    peak(200)  # imports and caches
    small, large = peak(1000), peak(4000)
    assert large < 1.25 * small + 200_000, (small, large)


def test_a_dropped_result_carries_its_reason(tmp_path):
    rows = [{"messages": [HI, {"role": "assistant", "content": "Yo"}], "label": False}]
    source = FileSource(uri=write(tmp_path / "a.jsonl", rows), split="sft")
    first = next(itertools.islice(stream_source(source), 1))
    assert first == Dropped("unwanted reply (label is false)")
