"""Known copies are found, clean and sibling problems stay, and every removal has readable evidence."""

import gzip
import itertools
import json
import re
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.data.decontaminate import (
    Examples,
    clean_files,
    decontaminate,
    flagged_items,
    index_fingerprint,
    write_evidence,
    write_report,
)
from components.data.decontaminate.agreement import Agreement
from components.data.decontaminate.clean import read_benchmarks
from components.data.decontaminate.engine import TextRecord
from components.data.decontaminate.harness.inject import NEGATIVES, POSITIVES
from components.data.decontaminate.harness.measure import measure
from components.data.decontaminate.index import BenchmarkIndex, IndexedItem
from components.data.decontaminate.rows import lines, parse, texts
from components.data.dedup import check_disjoint
from components.data.generator import generate
from components.data.schema import Message, RlRecord, SftRecord
from components.data.text.tokens import tokenise
from components.recipe.data import DecontaminateConfig, GeneratorSource

SHARED = Path(__file__).parents[4] / "shared" / "data"
STRING_ONLY = DecontaminateConfig(semantic=False)
QUESTION = (
    "A farmer keeps 14 hens and 9 ducks. Every hen lays 5 eggs a week and every duck lays 3 eggs a week. "
    "How many eggs does the farmer collect in a week?"
)


def sft(question, answer="<think></think>\\boxed{1}", name="r"):
    prompt = (Message(role="user", content=question),)
    return SftRecord(id=name, source="s", domain="math", family="f", prompt=prompt, response=answer)


def item(text, name="b"):
    return TextRecord(name, (("question", text),))


def levels(question, answer="<think></think>\\boxed{1}", benchmark=(QUESTION,), config=STRING_ONLY):
    items = [item(text, f"b{n}") for n, text in enumerate(benchmark)]
    result = decontaminate({"sft": [sft(question, answer)]}, {"bench": items}, config)
    return [finding.level for finding in result.removed], result


@pytest.mark.parametrize(
    ("question", "level"),
    [
        (QUESTION, "exact"),
        ("\n".join(textwrap.wrap(QUESTION, 20)).upper(), "exact"),
        (re.sub(r"(\d+)", r"$\1$", QUESTION), "exact"),
        (f"I saw this in a book: {QUESTION} Explain every step.", "contained"),
        (QUESTION.replace("14", "fourteen").replace("9", "nine").replace(" 5 ", " five "), "exact"),
        (QUESTION.replace("How many eggs does the farmer collect", "What number of eggs is collected"), "ngram"),
        (QUESTION.replace("keeps", "has").replace("lays 5", "gives 5").replace("lays 3", "gives 3"), "lcs"),
    ],
)
def test_copies_are_removed(question, level):
    assert levels(question)[0] == [level]


def test_a_copy_in_the_answer_is_found():
    found, result = levels("Tell me about farms.", f"<think>{QUESTION}</think>ok")
    assert found == ["contained"]
    assert result.removed[0].field == "answer"


def test_a_template_sibling_stays_and_is_reported():
    found, result = levels(QUESTION.replace("14", "23").replace("9", "8"))
    assert found == []
    assert [finding.level for finding in result.templates] == ["template"]
    assert result.counts["sft"]["template"] == 1


def test_formulas_count_every_symbol():
    benchmark = ("m:7a-1b+7", "solve 6a+4b*7c-4d+2e*3f for a")
    assert levels("m:7a-1b+7", benchmark=benchmark)[0] == ["exact"]
    assert levels("m:7a-1b+7c*2", benchmark=benchmark)[0] == []
    assert levels("solve 6a+4b*7c-4d+2e*5f for a", benchmark=benchmark)[0] == []
    assert levels("so we had to solve 6a+4b*7c-4d+2e*3f for a, again", benchmark=benchmark)[0] == ["contained"]


DRAWING = '[asy]\nsize(80);\ndraw((0,0)--(4,0)--(4,3)--cycle);\ndot((4,3));\nlabel("$A$",(0,0),W);\n[/asy]'
PICTURED = (
    "A ladder leans on a wall as the picture shows, and its foot stands 4 feet from that wall. The top of the ladder "
    "is 3 feet above the ground. How many feet long is the ladder?"
)


def test_a_shared_drawing_is_no_copy_and_a_missing_one_hides_none():
    benchmark = (f"{PICTURED}\n\n{DRAWING}",)
    other = "In the diagram a gardener fences a bed of three corners. What is the area of the bed in square metres?"
    assert levels(f"{other}\n\n{DRAWING}", benchmark=benchmark)[0] == []
    assert levels(benchmark[0], benchmark=benchmark)[0] == ["exact"]
    assert levels(PICTURED, benchmark=benchmark)[0] in (["ngram"], ["lcs"])
    assert levels(benchmark[0].replace("leans on", "stands at"), benchmark=benchmark)[0] in (["ngram"], ["lcs"])
    assert levels(benchmark[0].replace("(4,", "(6,"), benchmark=benchmark)[0] == []  # another picture


def test_boilerplate_of_a_template_is_no_copy():
    rules = "On this island every knight tells the truth and every knave lies and you meet some of them on the road. "
    names = ["Ann", "Bob", "Cid", "Dee", "Eve", "Flo"]
    benchmark = [
        f"{rules}{name} says that {other} is a knave. Who is a knight?" for name, other in itertools.pairwise(names)
    ]
    assert levels(f"{rules}Gus says that Hal is a knight. Who lies?", benchmark=benchmark)[0] == []
    assert levels(benchmark[2], benchmark=benchmark)[0] == ["exact"]


def test_benchmark_and_config_are_part_of_the_index_identity():
    one = index_fingerprint({"a": [item(QUESTION)]}, STRING_ONLY)
    assert one == index_fingerprint({"a": [item(QUESTION)]}, STRING_ONLY)
    assert one != index_fingerprint({"a": [item(QUESTION + " Now.")]}, STRING_ONLY)
    assert one != index_fingerprint({"a": [item(QUESTION)]}, STRING_ONLY.model_copy(update={"ngram": 8}))


@pytest.mark.slow
def test_paraphrases_are_found_by_meaning_and_other_numbers_are_not():
    others = [
        "A train travels at 60 miles per hour for 3 hours. How far does the train travel?",
        "Maria reads 20 pages of her book every day. How many pages does she read in 7 days?",
        "A shop sells 30 shirts at 15 dollars each. How much money does the shop earn?",
    ]
    paraphrase = (
        "The farmer owns 14 hens and 9 ducks. If each hen lays five eggs per week and each duck lays three eggs per "
        "week, what is the number of eggs collected by the farmer weekly?"
    )
    config = DecontaminateConfig()
    found, result = levels(paraphrase, benchmark=(QUESTION, *others), config=config)
    assert found == ["semantic"], result.review
    assert result.counts["semantic"]["embedded"] >= 2
    assert result.removed[0].benchmark_item == "b0"
    assert levels(paraphrase.replace("14", "15"), benchmark=(QUESTION, *others), config=config)[0] == []
    assert levels("A train carries 60 people to the coast.", benchmark=(QUESTION, *others), config=config)[0] == []


@pytest.mark.parametrize(
    ("item", "text", "agrees"),
    [
        (
            "Ann has 14 hens and half as many ducks.",
            "There are fourteen hens, and half that many ducks.",
            True,
        ),
        ("Ann has 14 hens.", "Ann has 15 hens.", False),
        ("In how many ways do 5 balls go in 2 boxes?", "In how many ways do 5 balls go in 3 boxes?", False),
        (
            "Two classes have 80 students, 40% are girls.",
            "80 students, 40% in A, 21 fewer in B: three rooms.",
            False,
        ),
        ("One of 3 friends has 12 pens.", "There are 3 friends, and 12 pens belong to a single one.", True),
        ("Compute $\\arcsin (-\\frac{1}{2})$ in degrees.", "Compute $\\arcsin (-1)$ in degrees.", False),
        ("Evaluate $x^2 + 5x - 7$ at $x = 4$.", "What is the value of $x^2 + 5x - 7$ when $x = 4$?", True),
    ],
)
def test_numbers_and_symbols_agree_or_do_not(item, text, agrees):
    index = BenchmarkIndex([IndexedItem("b", "1", item), IndexedItem("b", "2", QUESTION)], 13)
    nats = Agreement(index, [0, 1]).nats(0, tokenise([text]).text(0))
    assert (nats is not None) == agrees


def test_the_same_formula_in_other_words_is_found_and_worked_sums_are_not():
    formula = "$(26^2 - 24^2 - 10)^2 - 10^2$"
    benchmark = (f"What is the value of {formula}?", "Compute $7^3 + 4^2 - 11^2 + 5$ by hand.")
    assert levels(f"Work out the quantity of {formula}.", benchmark=benchmark)[0] == ["lcs"]
    assert levels(f"Work out the quantity of {formula.replace('24', '25')}.", benchmark=benchmark)[0] == []
    solution = TextRecord(
        "b", (("question", QUESTION), ("solution", "Jean has 30 - 2 = 28 pens, 28 / 2 = 14 bags. 14"))
    )
    record = sft("How old is Pat?", "Robert is 30 - 2 = 28 years old, so Pat is 28 / 2 = 14 years old. 14")
    assert decontaminate({"sft": [record]}, {"bench": [solution]}, STRING_ONLY).removed == []


def test_a_grid_without_words_of_its_own_is_found_inside_a_text():
    rows = [" ".join(str(int((n + r) % 9 == 0)) for n in range(40)) for r in range(12)]
    benchmark = tuple(rows)
    assert levels(f"Look at this grid and go on.\n\n{rows[3]}\n\nThank you.", benchmark=benchmark)[0] == ["contained"]


def test_generated_splits_are_disjoint_and_survive_quickly():
    made = generate(GeneratorSource(pretrain=200, sft=1500, rl=400, preference=100, benchmark=32), seed=3)
    data = {name: getattr(made, name) for name in ("pretrain", "sft", "rl", "preference", "preference_heldout")}
    assert check_disjoint(data, made.benchmarks) == []
    result = decontaminate(data, made.benchmarks, DecontaminateConfig())
    assert result.removed == []
    stolen = made.benchmarks["nano-math"][0]
    data["rl"] = [*data["rl"], RlRecord(**stolen.model_dump(exclude={"benchmark"}))]
    assert len(check_disjoint(data, made.benchmarks)) == 1
    result = decontaminate(data, made.benchmarks, DecontaminateConfig())
    assert [(finding.level, finding.benchmark_item) for finding in result.removed] == [("exact", stolen.id)]


def test_flagged_items_keep_their_strongest_level():
    _, result = levels(QUESTION, f"<think>{QUESTION}</think>ok")
    found = [(f.benchmark, f.benchmark_item, f.level, f.decision) for f in result.findings]
    assert len(found) == 2
    assert flagged_items(found) == {"bench": {"b0": {"level": "exact", "decision": "removed"}}}


def test_evidence_and_report_can_be_read(tmp_path):
    text = f"From <b>a book</b>: {QUESTION}"
    _, result = levels(text)
    assert write_evidence(tmp_path / "evidence.parquet", result.findings) == 1
    row = pq.read_table(tmp_path / "evidence.parquet").to_pylist()[0]
    start, end = row["spans"][-1]
    assert text[start:end] == QUESTION.rstrip("?")
    assert QUESTION[slice(*row["benchmark_spans"][-1])] == QUESTION.rstrip("?")
    examples = Examples(result.findings)
    write_report(tmp_path / "report.html", result.counts, examples, result.fingerprint, STRING_ONLY)
    page = (tmp_path / "report.html").read_text()
    assert "<mark>A farmer keeps 14 hens" in page
    assert "&lt;b&gt;" in page
    assert "1 of 1 records removed" in page


def test_clean_files_keeps_rows_unchanged_and_in_order(tmp_path):
    rows = [
        f'{{"b":1,  "question":"{QUESTION}"}}',
        '{"question":"Is caf\\u00e9 spelt so?","n":[1, 2]}',
        '{"answer": "2"}',
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*rows, "{not json"]) + "\n")
    (tmp_path / "bench.jsonl").write_text(json.dumps({"problem": QUESTION.upper()}) + "\n")
    counts = clean_files(
        [str(tmp_path / "corpus.jsonl")], [str(tmp_path / "bench.jsonl")], tmp_path / "out", STRING_ONLY
    )
    assert (tmp_path / "out" / "clean.jsonl").read_text().splitlines() == rows[1:]
    assert (counts["records"], counts["kept"], counts["removed"], counts["malformed"]) == (3, 2, 1, 1)
    assert (tmp_path / "out" / "report.html").is_file()
    assert pq.read_table(tmp_path / "out" / "evidence.parquet").num_rows == 1


def test_workers_give_the_same_bytes_and_compressed_lines_keep_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr("components.data.decontaminate.clean.BLOCK_LINES", 8)
    rows = [json.dumps({"text": f"Item {n}: {QUESTION if n % 7 == 0 else 'nothing of note'}"}) for n in range(50)]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as stream:
        stream.write("\n".join(rows))
    (tmp_path / "bench.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "97"}))
    made = []
    for workers in (1, 2, 3):
        out = tmp_path / f"out{workers}"
        counts = clean_files(
            [str(tmp_path / "corpus.jsonl.gz")], [str(tmp_path / "bench.jsonl")], out, STRING_ONLY, workers
        )
        made.append([(path.name, path.read_bytes()) for path in sorted(out.iterdir())])
    assert made[0] == made[1] == made[2]
    assert counts["removed"] == 8
    assert counts["gates"] == []
    kept = dict(made[0])["clean.jsonl"].decode().splitlines()
    assert kept == [row for n, row in enumerate(rows) if n % 7]


def test_grids_short_items_and_programs(tmp_path):
    grid = [[n % 3 for n in range(5)] for _ in range(5)]
    body = "    total = 0\n    for step in range(height):\n        total += width\n    return total\n"
    program = f"def area(width, height):\n{body}"
    other = (
        program.replace("area", "f")
        .replace("width", "w")
        .replace("height", "h")
        .replace("total", "acc")
        .replace("step", "i")
    )
    corpus = [
        {"train": [{"input": grid, "output": grid}]},
        {"text": "A note.\nWrite 3/20 as a decimal.\nThanks.\n"},
        {"text": f"Here it is:\n```python\n{other}```"},
        {"text": "Write 3/25 as a decimal."},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    benchmark = [
        {"train": [{"input": grid, "output": grid}]},
        {"problem": "Write $\\frac{3}{20}$ as a decimal."},
        {"prompt": "Compute an area.", "code": program},
    ]
    (tmp_path / "bench.jsonl").write_text("\n".join(map(json.dumps, benchmark)))
    counts = clean_files(
        [str(tmp_path / "corpus.jsonl")], [str(tmp_path / "bench.jsonl")], tmp_path / "out", STRING_ONLY
    )
    rows = pq.read_table(tmp_path / "out" / "evidence.parquet").to_pylist()
    assert [(row["item"][-1], row["level"]) for row in rows if row["decision"] == "removed"] == [
        ("1", "exact"), ("2", "contained"), ("3", "code"),
    ]  # fmt: skip
    assert (counts["kept"], counts["template"]) == (1, 1)


def small_set(count, *names):
    """(clean records of GSM8K train, benchmarks): the harness on a small set; all of it is `ringflow bench`'s."""
    if not (SHARED / "corpora" / "gsm8k_train.jsonl.gz").is_file():
        pytest.skip("shared test data is absent: ../shared/data")
    rows = itertools.islice(lines(str(SHARED / "corpora" / "gsm8k_train.jsonl.gz")), count)
    benchmarks = read_benchmarks([str(SHARED / "benchmarks" / f"{name}.jsonl") for name in names])
    return [texts(parse(line)[0]) for _, line in rows], benchmarks


def test_known_copies_in_a_real_corpus():
    clean, benchmarks = small_set(3000, "gsm8k_test", "math500", "mbpp_sanitized", "arc_agi_1_evaluation")
    measured = measure(clean, benchmarks, STRING_ONLY, per_benchmark=50)
    found = {kind: measured.recall(kind) for kind in (*POSITIVES, *NEGATIVES)}
    print(found, dict(measured.alarms))
    assert all(found[kind] >= 0.98 for kind in ("exact", "re-wrapped", "re-cased", "latex", "embedded"))
    assert found["renamed code"] >= 0.9
    assert found["number words"] >= 0.9
    assert found["sibling"] == 0
    assert measured.false_alarms <= 1
    assert measured.precision("exact") == measured.precision("exact", "math500") == 1
    assert measured.share("exact", "exact") >= 0.98


def test_paraphrases_in_a_real_corpus():
    clean, benchmarks = small_set(250, "gsm8k_test", "math500")
    measured = measure(clean, benchmarks, DecontaminateConfig(), per_benchmark=15)
    assert measured.recall("paraphrased") >= 0.85
    assert measured.recall("reordered") >= 0.85
    assert measured.recall("sibling") == 0
    assert measured.false_alarms == 0
