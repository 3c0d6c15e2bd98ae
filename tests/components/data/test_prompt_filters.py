"""Which RL prompts are left out, and which only look like it."""

import pytest

from components.data.ingest import Dropped, Made, stream_source
from components.data.prompt_filters import filter_prompt
from components.data.schema import Message, RlRecord, Verifier
from components.data.solutions import only_solved
from components.data.sources import SourceEntry
from components.recipe.data import FileSource, PromptFilterConfig
from tests.components.data.test_ingest import write

ALL = PromptFilterConfig(preset="ring-lite")


def reason(question, answer="7", config=ALL, domain="math"):
    verifier = Verifier(kind="math", reference={"answer": answer})
    prompt = (Message(role="system", content="Is it (a) or (b)?"), Message(role="user", content=question))
    record = RlRecord(id="1", source="s", domain=domain, family="f", prompt=prompt, verifier=verifier)
    return filter_prompt(record, config)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("(a) Find x. (b) Find y.", "7", "filter multi_part"),
        ("Solve:\ni) x + 1 = 2\nii) y + 1 = 3", "7", "filter multi_part"),
        ("Part A: find x. Part B: find y.", "7", "filter multi_part"),
        ("Which is prime? (A) 4 (B) 6 (C) 7 (D) 8", "C", "filter multiple_choice"),
        ("Which is prime?\nA. 4\nB. 6\nC. 7", "C", "filter multiple_choice"),
        ("Which of the following primes is even?", "B", "filter multiple_choice"),
        ("Is 7 a prime number?", "Yes", "filter yes_no"),
        ("Is every group of order 4 abelian?", "\\text{True}", "filter yes_no"),
        ("Prove or disprove that 2 is odd.", "disprove", "filter yes_no"),
        ("What is the area? [asy] draw((0,0)--(1,1)); [/asy]", "7", "filter image"),
        ("In the figure, AB is 4 long. How long is BC?", "7", "filter image"),
        ("See ![](triangle.png). How long is AB?", "7", "filter image"),
        ("Given f(a) and f(b) with a) not used, find f(a)+f(b).", "7", ""),
        ("Points A, B and C lie on a line. Find AB.", "7", ""),
        ("How many figures below 100 are prime?", "25", ""),
        ("The function (A) is linear.", "7", ""),
        ("What is the number of true statements?", "3", ""),
    ],
)
def test_rules(question, answer, expected):
    assert reason(question, answer) == expected


def test_rules_apply_where_the_recipe_says():
    question = "Is 7 a prime number?"
    assert reason(question, "yes", PromptFilterConfig()) == ""
    assert reason(question, "yes", PromptFilterConfig(image=True)) == ""
    assert reason(question, "yes", PromptFilterConfig(yes_no=True)) == "filter yes_no"
    assert reason(question, "yes", domain="logic") == ""


def test_left_out_prompts_are_counted_per_reason(tmp_path):
    rows = [{"problem": "Is 7 prime?", "answer": "yes"}] * 3 + [{"problem": "What is 2+2?", "answer": "4"}] * 2
    source = FileSource(uri=write(tmp_path / "a.jsonl", rows), split="rl")
    *results, entry = stream_source(source, ALL)
    assert sum(isinstance(result, Made) for result in results) == 2
    assert (entry.records, entry.left_out) == (2, {"filter yes_no": 3})


def test_code_prompts_need_an_accepted_solution(tmp_path):
    rows = [
        {"problem": f"Print {n}.", "tests": {"inputs": [""], "outputs": [str(n)]}, "solution": f"print({n % 3})"}
        for n in range(80)
    ]
    del rows[1]["solution"]
    source = FileSource(uri=write(tmp_path / "a.jsonl", rows), split="rl")
    calls = []

    def accepted(records):
        calls.append(len(records))
        outputs = [record.verifier.reference["tests"][0]["stdout"] for record in records]
        return [f"print({out})" == record.solution for out, record in zip(outputs, records, strict=True)]

    for mode, kept in (("ignore", 80), ("run", 3), ("require", 2)):
        results = list(only_solved(stream_source(source), mode, accepted))
        assert sum(isinstance(result, Made) for result in results) == kept
        assert sum(isinstance(result, Dropped) for result in results) == 80 - kept
        (entry,) = [result for result in results if isinstance(result, SourceEntry)]
        assert entry.records == kept
        assert sum(entry.left_out.values()) == 80 - kept
    assert entry.left_out == {"filter no accepted solution": 1, "filter solution fails its tests": 77}
    assert max(calls) <= 32
