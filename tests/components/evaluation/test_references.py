"""Given answers to shared records score as the reference implementations score them; each test names whose numbers.

What is checked elsewhere: the reference answers of AIME, HMMT 2024, OlymMATH, MATH-500 and GSM8K, programs of HumanEval
and MBPP, ARC's grids (test_benchmarks), CodeElo's rating (test_contests), Arena-Hard, HealthBench and Creative Writing
(test_judged, test_duels), marks of proofs (test_agentic).
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.evaluation.benchmark import find, registry
from components.evaluation.benchmarks.zebralogic import cells
from components.evaluation.contests import rating_metrics, scoreboard
from components.rewards.instruction import failed_constraints
from components.rewards.scorer import RuleScorer, open_scorer
from components.rewards.types import RewardRequest
from tests.components.evaluation.answers import answer
from tests.components.evaluation.test_benchmarks import DATA, FILES


@pytest.fixture(scope="module")
def scorer() -> Iterator[RuleScorer]:
    with open_scorer() as opened:
        yield opened


def records(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"shared/data is absent: no {name}")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as stream:
        return [json.loads(line) for line in stream]


def verdicts(scorer: RuleScorer, pairs: list) -> list[str]:
    """pairs: (item, response)."""
    requests = [RewardRequest(str(n), "q", text, item.verifier) for n, (item, text) in enumerate(pairs)]
    return [reward.verdict for reward in scorer.score(requests, 20.0)]


def test_every_benchmark_has_a_check() -> None:
    """Records of five are not public here: they share their reader with one that is, or the test makes records."""
    without_records = {"hmmt25", "gpqa-diamond", "livecodebench", "zebralogic", "icpc", "imo25"}
    assert registry().keys() == FILES.keys() | without_records


def test_olympiadbench_and_hmmt_2025(scorer: RuleScorer) -> None:
    """Reference answers are right, those of the next problem wrong; HMMT 2025 is read as HMMT 2024 is."""
    rows = records("olympiadbench_math.jsonl")[::80]
    items = [find("olympiadbench").item(row) for row in rows]
    said = ["\\boxed{" + ", ".join(text.strip().strip("$") for text in row["answer"]) + "}" for row in rows]
    assert verdicts(scorer, list(zip(items, said, strict=True))).count("correct") == len(rows)
    turned = [*said[1:], said[0]]
    differ = [(item, text) for item, text, own in zip(items, turned, said, strict=True) if text != own]
    assert "correct" not in verdicts(scorer, differ)
    row = {"problem_idx": 1, "problem": "What is 1+1?", "answer": "2"}
    one, other = (find(name).item(row) for name in ("hmmt24", "hmmt25"))
    assert (one.prompt, one.verifier) == (other.prompt, other.verifier)


CPP = """```cpp
#include <iostream>
#include <algorithm>
int main() { int t; std::cin >> t; while (t--) { int x, y; std::cin >> x >> y;
  std::cout << BODY << "\\n"; } }
```"""
RIGHT = CPP.replace("BODY", 'std::min(x, y) << " " << std::max(x, y)')
WRONG = CPP.replace("BODY", 'x << " " << y')


@pytest.mark.parametrize(("name", "tries", "points"), [("codeforces", 8, 400.0), ("icpc", 3, 1.0)])
def test_programs_are_submitted_until_one_is_accepted(
    scorer: RuleScorer, tmp_path: Path, name: str, tries: int, points: float
) -> None:
    """1971A in C++: two wrong submissions, then a right one: 500 less twice 50, or one problem with 20 minutes."""
    row = next(row for row in records("codeforces_2024.jsonl") if row["problem_id"] == "1971A")
    benchmark = find(name)
    assert benchmark.samples == tries
    item = benchmark.item(row)
    found = verdicts(scorer, [(item, text) for text in (WRONG, WRONG, RIGHT)])
    assert found == ["wrong", "wrong", "correct"]
    people = [{"rating": 1000 + 100 * n, "points": n if name == "icpc" else 150 * n} for n in range(6)]
    contest = {"contest": 1971, "problems": {"A": 500, "B": 1000}, "standings": people}
    contest |= {"kind": "icpc"} if name == "icpc" else {}
    path = tmp_path / "standings.jsonl"
    path.write_text(json.dumps(contest) + "\n")
    answers = [answer(name, item.id, k, float(v == "correct"), item.family) for k, v in enumerate(found)]
    (row,) = scoreboard(answers, {"standings": path})
    assert (row["solved"], row["problems"], row["points"]) == ("1 of 2", "A (-2)", points)
    assert row["penalty"] == (20.0 if name == "icpc" else 0.0)
    assert rating_metrics(answers, 0.95, {"standings": path})["rating"].value == row["rating"]


def lcb(row: dict) -> dict | None:
    """A LeetCode record as LiveCodeBench has it; None where its tests are more than calls with plain arguments."""
    code, name = row["solutions"], re.search(r"check\(Solution\(\)\.(\w+)\)", row["tests"]["functional"]).group(1)
    tests = []
    for node in ast.walk(ast.parse(row["tests"]["functional"])):
        if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare):
            continue
        call, (expected,) = node.test.left, node.test.comparators
        try:
            arguments = [ast.literal_eval(argument) for argument in [*call.args, *(k.value for k in call.keywords)]]
            value = ast.literal_eval(expected)
            lines = "\n".join(json.dumps(argument) for argument in arguments)
            tests.append({"input": lines, "output": json.dumps(value), "testtype": "functional"})
        except (ValueError, TypeError, AttributeError):
            return None
    if not tests:
        return None
    starter = "class Solution:\n    " + re.search(r"def [^\n]+", code).group()
    return {
        "question_id": row["problem"][:80],
        "question_content": row["problem"],
        "contest_date": "2025-01-04",
        "public_test_cases": json.dumps(tests),
        "starter_code": starter,
        "metadata": json.dumps({"func_name": name}),
    }


def test_livecodebench_accepts_what_its_runner_accepts(scorer: RuleScorer) -> None:
    """LeetCode's own solutions, which lean on what LiveCodeBench's runner imports for them (`List`, `inf`, `cache`)."""
    rows = records("../corpora/leetcode_train.jsonl.gz")[::40]
    pairs = [(find("livecodebench").item(made), row["solutions"]) for row in rows if (made := lcb(row)) is not None]
    assert len(pairs) > 20
    found = verdicts(scorer, [(item, f"```python\n{code}\n```") for item, code in pairs])
    assert found == ["correct"] * len(pairs)
    broken = [(item, "```python\nclass Solution:\n    pass\n```") for item, _ in pairs[:3]]
    assert set(verdicts(scorer, broken)) == {"wrong"}


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        ("0.50 2", "correct"),  # decimals
        ("  0.5   2  \n\n", "correct"),
        ("0.5\n2", "wrong"),  # another line
        ("0.5 2.0000001", "wrong"),  # no tolerance
        ("0.5 2 3", "wrong"),
    ],
)
def test_livecodebench_compares_output_as_its_runner_does(scorer: RuleScorer, printed: str, verdict: str) -> None:
    """grade_stdio of lcb_runner/evaluation/testing_util.py gives these verdicts for `0.5 2`."""
    tests = json.dumps([{"input": "", "output": "0.5 2\n", "testtype": "stdin"}])
    row = {"question_id": "1", "question_content": "Print.", "contest_date": "2025-01-04", "public_test_cases": tests}
    item = find("livecodebench").item(row | {"metadata": "{}", "starter_code": ""})
    assert verdicts(scorer, [(item, f"```python\nprint({printed!r})\n```")]) == [verdict]


def test_zebralogic_counts_as_zeroeval_does(scorer: RuleScorer) -> None:
    """31.25 % of puzzles, 57.14 % of cells: ZeroEval's zebra_grid_eval.py on the same tables and answers."""
    answers = []
    for number, row in enumerate(records("zebralogic_sample.jsonl")):
        listed = [line for line in row["puzzle"].split("## Clues")[0].splitlines() if line.strip().startswith("- ")]
        features = [re.findall(r"`([^`]+)`", line) for line in listed]
        houses, header = len(features[0]), ["House", *(f"F{k}" for k in range(len(features)))]
        table = [[str(h + 1), *(values[h] for values in features)] for h in range(houses)]
        item = find("zebralogic").item(row | {"solution": {"header": header, "rows": table}})
        shifts = [number % 3 if k < 2 else 0 for k in range(len(features))]
        said = {
            f"House {h + 1}": {
                name: values[(h + shift) % houses]
                for name, values, shift in zip(header[1:], features, shifts, strict=True)
            }
            for h in range(houses)
        }
        text = "I give up." if number % 5 == 4 else json.dumps({"reasoning": "so", "solution": said})
        (reward,) = scorer.score([RewardRequest("r", "q", text, item.verifier)], 5.0)
        found = answer("zebralogic", item.id, 0, reward.value, **reward.evidence)
        object.__setattr__(found, "level", item.level)
        answers.append(found)
    assert 100 * sum(found.value for found in answers) / len(answers) == 31.25
    metric = cells(answers, 0.95, {})["cell accuracy"]
    assert round(100 * metric.value, 2) == 57.14
    assert metric.low < metric.value < metric.high


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("The answer is C.", "correct"),
        ("**Answer:** (C)", "correct"),
        ("Answer: D", "wrong"),
        ("Perhaps.", "no-answer"),
    ],
)
def test_gpqa_reads_a_letter_that_is_said(scorer: RuleScorer, said: str, verdict: str) -> None:
    """simple-evals asks for `Answer: LETTER`; a letter in a box comes first."""
    wrong = {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
    items = (find("gpqa-diamond").item({"Question": f"Q{n}?", "Correct Answer": "right", **wrong}) for n in range(99))
    item = next(item for item in items if item.verifier.reference["answer"] == "C")
    assert verdicts(scorer, [(item, said)]) == [verdict]


IFEVAL_TEXTS = {
    "here is a short and plain answer. it has no capitals and it says what has to be said about the matter": (37, 37),
    "THIS ANSWER IS SHOUTED. IT GOES ON FOR A WHILE BECAUSE THE AUTHOR OF IT LIKES TO SHOUT AT PEOPLE WHO ASK.": (
        37,
        37,
    ),
    "<<A Full Answer>>\n\nSECTION 1\n*First of all*, dear reader, see **this** point.\n\n* one thing\n* another thing\n"
    "- a third [name] [place] [date]\n\n***\n\nSECTION 2\n\nMy answer is yes.\n\nP.S. There is more to say, P.P.S too."
    "\n\nIs there anything else I can help with?": (40, 44),
    '"{\\"answer\\": [1, 2, 3]}"': (36, 36),
    "Heute gehen wir mit den Kindern in den Park und essen dort ein großes Eis, weil die Sonne so schön scheint.": (
        19,
        19,
    ),
}
# They need a trained tokenizer, or draw a letter at random: docs/rewards.md has how often those agree.
NOT_COMPARED = {
    "length_constraints:number_sentences",
    "change_case:capital_word_frequency",
    "keywords:letter_frequency",
}


def test_ifeval_counts_as_the_published_checkers_do() -> None:
    """Of 154 instructions of every fifth prompt, how many the published code finds followed, strict and loose."""
    items = [find("ifeval").item(row) for row in records("ifeval.jsonl")[::5]]
    rows = [row for item in items for row in item.verifier.reference["constraints"] if row["id"] not in NOT_COMPARED]
    assert len(rows) == 154
    for text, expected in IFEVAL_TEXTS.items():
        found = tuple(
            sum(not failed_constraints(text, {"constraints": [row]}, mode) for row in rows)
            for mode in ("strict", "loose")
        )
        assert found == expected, text[:40]
