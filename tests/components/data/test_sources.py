"""Files of every known shape become records; what does not fit is quarantined with its place, or named."""

import gzip
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts.s3 import S3Objects
from components.data.decontaminate.rows import lines
from components.data.ingest import ingest
from components.data.jsonl import read_records, record_id, write_records
from components.data.schema import SftRecord
from components.failures import BadInput, InfrastructureError
from components.recipe.data import BenchmarkSource, FileSource
from tests.components.artifacts.conftest import s3_endpoint, s3_environment  # noqa: F401

USER = [{"role": "user", "content": "What is 2+2?"}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("split", "row", "check"),
    [
        ("pretrain", {"text": "Once upon a time"}, lambda r: r.text == "Once upon a time"),
        ("sft", {"messages": [*USER, {"role": "assistant", "content": "4"}]}, lambda r: r.response == "4"),
        (
            "sft",
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            lambda r: r.prompt[0].content == "Hi" and r.response == "Hello",
        ),
        (
            "sft",
            {"instruction": "Add", "input": "2 and 2", "output": "4"},
            lambda r: r.prompt[0].content == "Add\n\n2 and 2" and r.response == "4",
        ),
        ("sft", {"prompt": "Hi", "response": "Hello"}, lambda r: r.response == "Hello"),
        (
            "sft",
            {"problem": "2+2?", "solution": "two and two", "answer": "4"},
            lambda r: r.response == "<think>two and two</think>\\boxed{4}",
        ),
        (
            "rl",
            {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
            lambda r: r.verifier.reference == {"answer": "4"},
        ),
        (
            "rl",
            {"problem": "Add", "tests": {"inputs": ["1 2"], "outputs": ["3"]}},
            lambda r: r.domain == "code" and r.verifier.reference["tests"] == [{"stdin": "1 2", "stdout": "3"}],
        ),
        (
            "rl",
            {"prompt": "def f(x):", "test": "def check(candidate):\n assert candidate(1) == 2", "entry_point": "f"},
            lambda r: r.verifier.reference["tests"] == [{"call": "f(1)", "result": "2"}],
        ),
        (
            "preference",
            {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
            lambda r: (r.chosen, r.rejected) == ("Hello", "No"),
        ),
        (
            "preference",
            {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
            lambda r: r.prompt[0].content == "Hi" and r.rejected == "No",
        ),
    ],
)
def test_known_layouts_are_detected(tmp_path, split, row, check):
    found = ingest(FileSource(uri=write(tmp_path / "a.jsonl", [row]), split=split, licence="MIT"))
    assert len(found.records) == 1
    record = found.records[0]
    assert check(record), record
    assert record.source.endswith("a.jsonl#1")
    assert record.licence == "MIT"
    assert record.id == record_id(record.model_dump(mode="json"))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_formats_give_the_same_records(tmp_path, kind):
    rows = [{"problem": f"What is {n}+1?", "answer": str(n + 1)} for n in range(5)]
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text("problem,answer\n" + "".join(f"{row['problem']},{row['answer']}\n" for row in rows))
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    found = ingest(FileSource(uri=path.as_uri(), split="rl", limit=4))
    assert [record.verifier.reference["answer"] for record in found.records] == ["1", "2", "3", "4"]
    assert found.sources[0].records == 4


def test_globs_read_in_name_order(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", [{"text": name}])
    found = ingest(FileSource(uri=str(tmp_path / "*.jsonl"), split="pretrain"))
    assert [record.text for record in found.records] == ["a", "b"]
    assert [entry.records for entry in found.sources] == [1, 1]


def test_malformed_records_are_quarantined_with_file_line_and_field(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "Hi", "response": "Hello"})
    path.write_text(
        "\n".join([good, good, good, '{"prompt": "Hi", "response": 7.5}', "{broken", '{"prompt": "Hi"}', good])
    )
    found = ingest(FileSource(uri=str(path), split="sft"))
    assert len(found.records) == 5  # a number is text of an answer
    assert [str(row).partition(": ")[0] for row in found.quarantine] == [f"{path}:5", f"{path}:6"]
    assert found.quarantine[1].field == "response"
    assert found.sources[0].malformed == 2


def test_an_unknown_layout_shows_the_first_record_and_the_nearest_layout(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "What?", "reply": "That"}] * 3)
    with pytest.raises(BadInput) as caught:
        ingest(FileSource(uri=path, split="rl"))
    for part in ("a.jsonl", '"reply": "That"', "problem-answer", "answer ("):
        assert part in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nothing\.jsonl: no such file"):
        ingest(FileSource(uri=str(tmp_path / "nothing.jsonl"), split="sft"))


def test_an_unreachable_s3_endpoint_is_an_infrastructure_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9"):
        ingest(FileSource(uri="s3://bucket/a.jsonl", split="sft"))


@pytest.mark.server
def test_s3_objects_and_globs_on_a_real_server(s3_environment, monkeypatch):  # noqa: F811
    bucket = S3Objects(f"data-{uuid.uuid4().hex[:12]}")
    bucket.check(10, create=True)
    for name in ("b", "a"):
        assert bucket.create(f"corpus/{name}.jsonl", json.dumps({"text": name}).encode())
    assert bucket.create("corpus/readme.md", b"not data")
    found = ingest(FileSource(uri=f"s3://{bucket.bucket}/corpus/*.jsonl", split="pretrain"))
    assert [record.text for record in found.records] == ["a", "b"]
    assert found.records[0].source == f"s3://{bucket.bucket}/corpus/a.jsonl#1"
    assert len(ingest(FileSource(uri=f"s3://{bucket.bucket}/corpus", split="pretrain")).records) == 2
    raw = lines(f"s3://{bucket.bucket}/corpus/a.jsonl")  # as `ringflow data clean` reads it
    assert [json.loads(line)["text"] for _, line in raw] == ["a"]
    with pytest.raises(BadInput, match="no such object"):
        ingest(FileSource(uri=f"s3://{bucket.bucket}/corpus/c.jsonl", split="pretrain"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BadInput, match=r"(?i)credential|secret|key|denied"):
        ingest(FileSource(uri=f"s3://{bucket.bucket}/corpus/a.jsonl", split="pretrain"))


def test_the_question_of_an_rlvr_export_is_in_its_chat(tmp_path):
    chat = json.dumps([{"role": "system", "content": "Think."}, {"role": "user", "content": "Which blot?"}])
    path = write(tmp_path / "a.jsonl", [{"prompt": "You are a chatbot.", "messages": chat, "ground_truth": "Western"}])
    (record,) = ingest(FileSource(uri=path, split="rl", domain="science")).records
    assert [message.content for message in record.prompt] == ["Think.", "Which blot?"]
    assert record.verifier.kind == "science"


def test_benchmarks_become_items(tmp_path):
    path = write(tmp_path / "b.jsonl", [{"problem": "2+2?", "answer": 4, "level": 3}])
    (item,) = ingest(BenchmarkSource(name="tiny", uri=path, domain="math")).records
    assert (item.benchmark, item.level, item.verifier.reference) == ("tiny", 3, {"answer": "4"})


def test_reading_records_names_file_line_and_field(tmp_path):
    path = tmp_path / "sft.jsonl"
    record = SftRecord(id="1", source="s", domain="math", family="f", prompt=(), response="x")
    assert write_records(path, [record]) == 1
    assert list(read_records(path, SftRecord)) == [record]
    path.write_text(path.read_text() + '{"id": "2", "source": "s", "prompt": [{"role": "robot"}]}\n')
    with pytest.raises(BadInput, match=r"sft\.jsonl:2: (domain|prompt\[0\])"):
        list(read_records(path, SftRecord))


def test_expected_values_that_are_no_literals_are_compared_inside(tmp_path):
    tests = (
        "def check(candidate):\n assert candidate(1) == 10 + 5\n assert candidate(2) == [3]\n assert candidate(3) < 4"
    )
    path = write(tmp_path / "a.jsonl", [{"prompt": "def f(x):\n", "test": tests, "entry_point": "f"}])
    (record,) = ingest(FileSource(uri=path, split="rl")).records
    found = [(test["call"], test["result"]) for test in record.verifier.reference["tests"]]
    assert found == [("f(1) == 10 + 5", "True"), ("f(2)", "[3]"), ("f(3) < 4", "True")]
