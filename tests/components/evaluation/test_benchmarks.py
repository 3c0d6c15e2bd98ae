"""Every standard benchmark reads its published records, and the reference answers score what they must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.evaluation.benchmark import find, registry
from components.evaluation.benchmark_data import read_benchmark
from components.failures import BadInput
from components.rewards.scorer import RuleScorer, open_scorer
from components.rewards.types import Reward, RewardRequest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "benchmarks"
FILES = {
    "aime24": ("aime_2024", 30),
    "aime25": ("aime_2025", 30),
    "hmmt24": ("hmmt_feb_2024", 30),
    "olymmath-hard": ("olymmath_en_hard", 100),
    "math500": ("math500", 500),
    "gsm8k": ("gsm8k_test", 1319),
    "olympiadbench": ("olympiadbench_math", 675),
    "humaneval": ("humaneval", 164),
    "mbpp": ("mbpp_sanitized", 427),
    "codeforces": ("codeforces_2024", 408),
    "arc-agi-1": ("arc_agi_1_evaluation", 400),
    "ifeval": ("ifeval", 541),
    "ifbench": ("ifbench_test", 285),
    "arena-hard-v2": ("arena_hard_v2", 750),
    "healthbench": ("healthbench_sample", 80),
    "creative-writing-v3": ("creative_writing_v3", 32),
}


def published(name: str) -> Path:
    path = DATA / f"{FILES[name][0]}.jsonl"
    if not path.exists():
        pytest.skip(f"shared/data is absent: no {path.name}")
    return path


@pytest.fixture(scope="module")
def scorer() -> Iterator[RuleScorer]:
    with open_scorer() as opened:
        yield opened


@pytest.mark.parametrize("name", FILES)
def test_reads_the_published_records(name: str) -> None:
    data = read_benchmark(find(name), str(published(name)))
    assert len(data.items) == FILES[name][1]
    assert len({item.id for item in data.items}) == FILES[name][1]
    assert sum(count for _, _, count in data.shards) == FILES[name][1]
    assert all(item.benchmark == name and item.prompt[-1].content.strip() for item in data.items)


def answered(scorer: RuleScorer, name: str, answer, every: int = 1) -> list[Reward]:
    """Rewards of `answer(row)` for every n-th record."""
    path = published(name)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    keep = find(name).keep or (lambda row: True)
    rows = [row for row in rows if keep(row)][::every]
    items = read_benchmark(find(name), str(path)).items[::every]
    return scorer.score(
        [
            RewardRequest(str(number), item.prompt[-1].content, answer(row), item.verifier)
            for number, (row, item) in enumerate(zip(rows, items, strict=True))
        ],
        20.0,
    )


@pytest.mark.parametrize("name", ["aime24", "aime25", "hmmt24", "olymmath-hard", "math500"])
def test_the_reference_answer_is_right(scorer: RuleScorer, name: str) -> None:
    rewards = answered(
        scorer, name, lambda row: f"So it is $\\boxed{{{row['answer']}}}$.", 7 if name == "math500" else 1
    )
    assert [reward.verdict for reward in rewards] == ["correct"] * len(rewards)


def test_gsm8k_asks_for_the_number_after_the_mark(scorer: RuleScorer) -> None:
    right = answered(scorer, "gsm8k", lambda row: f"\\boxed{{{row['answer'].rpartition('####')[2].strip()}}}", 40)
    wrong = answered(scorer, "gsm8k", lambda row: "\\boxed{-123456789}", 40)
    assert {reward.verdict for reward in right} == {"correct"}
    assert {reward.verdict for reward in wrong} == {"wrong"}


def test_humaneval_and_mbpp_accept_their_own_solutions(scorer: RuleScorer) -> None:
    solutions = {
        "humaneval": lambda row: f"```python\n{row['prompt']}{row['canonical_solution']}\n```",
        "mbpp": lambda row: f"```python\n{row['code']}\n```",
    }
    for name, solution in solutions.items():
        rewards = answered(scorer, name, solution, 12)
        assert {reward.verdict for reward in rewards} == {"correct"}, name
        bodies = answered(scorer, name, lambda row: "```python\nprint('ok')\n```", 40)
        assert {reward.verdict for reward in bodies} == {"wrong"}, name


def test_arc_grids(scorer: RuleScorer) -> None:
    def grids(row: dict) -> list:
        solutions = [test["output"] for test in row["test"]]
        return solutions if len(solutions) > 1 else solutions[0]

    right = answered(scorer, "arc-agi-1", lambda row: f"The rule...\n```json\n{json.dumps(grids(row))}\n```")
    assert {reward.value for reward in right} == {1.0}
    transposed = answered(scorer, "arc-agi-1", lambda row: json.dumps([[9] * 3] * 3), 9)
    assert {reward.value for reward in transposed} <= {0.0}
    assert answered(scorer, "arc-agi-1", lambda row: "I cannot tell.", 100)[0].verdict == "no-answer"


def test_instruction_arguments_are_those_of_the_checkers(scorer: RuleScorer) -> None:
    for name in ("ifeval", "ifbench"):
        rewards = answered(scorer, name, lambda row: "A plain answer.", 5)
        assert {reward.verdict for reward in rewards} <= {"correct", "wrong"}, name


def row(**fields: object) -> dict:
    return dict(fields)


def test_gpqa_letters_follow_the_shuffled_options(scorer: RuleScorer) -> None:
    benchmark, letters = find("gpqa-diamond"), []
    for number in range(40):
        options = {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
        record = {"Question": f"Question {number}?", "Correct Answer": "the right one", **options}
        item = benchmark.item(record)
        letter = item.verifier.reference["answer"]
        letters.append(letter)
        assert f"\n{letter}. the right one" in item.prompt[0].content
        for given, verdict in ((f"\\boxed{{{letter}}}", "correct"), ("\\boxed{\\text{(E)}}", "no-answer")):
            assert scorer.score([RewardRequest("r", "q", given, item.verifier)], 5)[0].verdict == verdict
    assert set(letters) == set("ABCD")


def test_zebralogic_counts_cells(scorer: RuleScorer) -> None:
    solution = {"header": ["House", "Name", "Pet"], "rows": [["1", "Ann", "cat"], ["2", "Bob", "red fish"]]}
    item = find("zebralogic").item({"id": "z", "size": "2*2", "puzzle": "There are 2 houses.", "solution": solution})
    right = {"House 1": {"Name": "ann", "Pet": "cat"}, "House 2": {"Name": "Bob", "Pet": "Red_Fish"}}
    half = {"House 1": {"Name": "Ann", "Pet": "red fish"}, "House 2": {"Name": "Bob", "Pet": "cat"}}
    answers = [f"```json\n{json.dumps(table)}\n```" for table in (right, half)]
    rewards = scorer.score([RewardRequest(a[:9], "q", a, item.verifier) for a in answers], 5)
    assert [(reward.value, reward.evidence["cells"]) for reward in rewards] == [(1.0, 1.0), (0.0, 0.5)]


def test_zebralogic_without_solutions_is_refused() -> None:
    path = DATA / "zebralogic_sample.jsonl"
    if not path.exists():
        pytest.skip("shared/data is absent")
    with pytest.raises(BadInput, match=r"zebralogic_sample.jsonl:1: solution"):
        read_benchmark(find("zebralogic"), str(path))


LCB = {
    "question_id": "1",
    "question_content": "Double the number.",
    "contest_date": "2025-01-04T00:00:00",
    "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "starter_code": "",
    "metadata": "{}",
}


def test_livecodebench_reads_private_tests_without_running_them(scorer: RuleScorer, tmp_path: Path) -> None:
    import base64
    import pickle
    import zlib

    def packed(value: object) -> str:
        return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()

    private = packed(json.dumps([{"input": "5\n", "output": "10\n", "testtype": "stdin"}]))
    old = {**LCB, "question_id": "0", "contest_date": "2023-05-01"}
    path = tmp_path / "lcb.jsonl"
    path.write_text("\n".join(json.dumps({**one, "private_test_cases": private}) for one in (LCB, old)))
    (item,) = read_benchmark(find("livecodebench"), str(path)).items
    assert len(item.verifier.reference["tests"]) == 2
    good, bad = (f"```python\nprint({body})\n```" for body in ("2*int(input())", "4"))
    rewards = scorer.score([RewardRequest(a, "q", a, item.verifier) for a in (good, bad)], 10)
    assert [reward.verdict for reward in rewards] == ["correct", "wrong"]
    assert [i.family for i in read_benchmark(find("livecodebench:2301-2306"), str(path)).items]

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path.write_text(json.dumps({**LCB, "private_test_cases": packed(Evil())}))
    with pytest.raises(BadInput, match=r"lcb.jsonl:1: private_test_cases.*only text is read"):
        read_benchmark(find("livecodebench"), str(path))


def test_functional_tests_call_the_starter_class(scorer: RuleScorer) -> None:
    functional = {
        **LCB,
        "public_test_cases": json.dumps([{"input": '[1, 2]\n"ab"', "output": "[2, 1]", "testtype": "functional"}]),
        "starter_code": "class Solution:\n    def turn(self, xs, s):\n        ",
        "metadata": json.dumps({"func_name": "turn"}),
    }
    item = find("livecodebench").item(functional)
    code = "```python\nclass Solution:\n    def turn(self, xs, s):\n        return xs[::-1]\n```"
    assert scorer.score([RewardRequest("r", "q", code, item.verifier)], 10)[0].verdict == "correct"


def test_bad_records_and_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "aime.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?"}\n')
    with pytest.raises(BadInput, match=r"aime.jsonl:2: answer"):
        read_benchmark(find("aime25"), str(path))
    path.write_text('{"problem": "1+1?", "answer": "2"}\n' * 2)
    with pytest.raises(BadInput, match="items 1 and 2 are the same"):
        read_benchmark(find("aime25"), str(path))
    with pytest.raises(BadInput, match="aime25"):
        find("aime2025")
    with pytest.raises(BadInput, match="YYMM"):
        find("livecodebench:2024")


def test_another_data_set_of_the_hub(tmp_path: Path, monkeypatch) -> None:
    """`datasets` itself reads it, from a folder called as on the hub; no network here."""
    folder = tmp_path / "me" / "sums"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?", "answer": "4"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    data = read_benchmark(find("aime25"), "hf://me/sums?split=test")
    assert [item.verifier.reference["answer"] for item in data.items] == ["2", "4"]
    assert data.shards[0][0] == "hf://datasets/me/sums?split=test"
    with pytest.raises(BadInput, match="OWNER/NAME@REVISION"):
        read_benchmark(find("aime25"), "hf://sums")


def test_every_benchmark_says_where_its_rules_come_from() -> None:
    for benchmark in registry().values():
        assert benchmark.source, benchmark.name
        assert set(benchmark.needs) <= set(benchmark.files), benchmark.name
