"""Monitors see what they are for and nothing in honest steps; shaping is off unless asked for."""

from __future__ import annotations

import pytest

from components.data.schema import Verifier
from components.recipe.rewards import MonitorConfig, ShapingConfig
from components.rewards.mixture import normalise
from components.rewards.monitor import alarms, hard_coded, length_correlation, monitor, repetition
from components.rewards.shaping import foreign_share, shape, well_formed
from components.rewards.types import Reward, RewardRequest

MATH = Verifier(kind="math", reference={"answer": "1"})
CODE = Verifier(kind="code", reference={"tests": [{"call": "f([3, 1, 2])", "result": "[1, 2, 3]"}]})
LINES = Verifier(kind="code", reference={"tests": [{"stdin": "12 30\n5\n", "stdout": "47\n11\n"}]})


def step(*rows: tuple[str, float | None], verifier: Verifier = MATH, group: str = "g"):
    return [
        (
            RewardRequest(f"{group}/{at}", "p", text, verifier, group=group),
            Reward(value, "error" if value is None else "correct" if value == 1 else "wrong"),
        )
        for at, (text, value) in enumerate(rows)
    ]


def test_length_that_is_paid_for_is_seen_inside_groups_only():
    paid = step(*(("a" * (10 * n + 1), n / 20) for n in range(20)))
    assert length_correlation(paid) == pytest.approx(1.0)
    assert "length_correlation 1 passes 0.6" in alarms(monitor(paid), MonitorConfig())[0]
    # A long, hard prompt and a short, easy one: lengths differ between groups, not inside them.
    between = step(*[("a", 1.0), ("a", 0.0)] * 9) + step(*[("a" * 50, 0.0)] * 9, group="h")
    assert length_correlation(between) is None
    short = [("a" * 20, 0.0), ("a", 1.0), ("a" * 9, None)]
    assert length_correlation(step(*short * 8)) == pytest.approx(-1.0)
    assert length_correlation(step(*short)) is None  # too few to say


def test_repetition():
    assert repetition("one two three") == 0.0
    assert repetition(" ".join(str(n) for n in range(100))) == 0.0
    assert repetition("again and " * 50) > 0.9
    assert any("repeat" in text for text in alarms(monitor(step(("so it is " * 40, 1.0))), MonitorConfig()))


def test_empty_answers():
    report = monitor(step(("<think>never ends", 0.0), ("</think>", 0.0), ("", 0.0), ("<think>x</think>1", 1.0)))
    assert report["monitor/empty_fraction"] == 0.75
    assert any("no answer" in text for text in alarms(report, MonitorConfig()))


@pytest.mark.parametrize(
    ("verifier", "program", "seen"),
    [
        (CODE, "def f(x):\n    return sorted(x)", False),
        (CODE, "def f(x):\n    if x == [3,1,2]: return [1,2,3]", True),
        (CODE, "def f(x):\n    return {'[3, 1, 2]': [1, 2, 3]}[str(x)]", True),
        (LINES, "a, b = map(int, input().split())\nprint(a + b + 5)", False),
        (LINES, "import sys\nprint({'12 30\\n5': '47\\n11'}[sys.stdin.read().strip()])", True),
    ],
)
def test_programs_that_hold_the_tests(verifier, program, seen):
    request = RewardRequest("r", "p", f"```python\n{program}\n```", verifier)
    assert hard_coded(request) == seen
    report = monitor([(request, Reward(1.0, "correct"))])
    assert bool(alarms(report, MonitorConfig())) == seen
    assert "monitor/hard_coded_fraction" not in monitor([(request, Reward(0.0, "wrong"))])


def test_an_honest_step_and_an_empty_one_raise_no_alarm():
    honest = step(("<think>2+2 is four</think>\\boxed{4}", 1.0), ("<think>2+2 is 5</think>\\boxed{5}", 0.0))
    assert alarms(monitor(honest), MonitorConfig()) == []
    assert monitor([]) == {}


def test_normalising_inside_a_group():
    assert normalise([1.0, 3.0], "group") == [-1.0, 1.0]
    assert normalise([2.0, 2.0], "group") == [0.0, 0.0]
    assert normalise([5.0, -1.0, 5.0, 9.0], "rank") == [0.5, 0.0, 0.5, 1.0]
    assert normalise([7.0], "rank") == [0.0]
    assert normalise([7.0, 8.0], "none") == [7.0, 8.0]


def test_shaping_is_off_by_default_and_takes_off_what_it_is_told_to():
    bad = RewardRequest("r", "What is it?", "<think>这是什么 is it 一个问题", MATH)
    reward = Reward(1.0, "correct", {"answer": "1"})
    assert shape(reward, bad, ShapingConfig()) is reward
    shaped = shape(reward, bad, ShapingConfig(format=0.2, language=0.5))
    share = foreign_share(bad.prompt, bad.response)
    assert 0.4 < share < 0.8
    assert shaped.value == pytest.approx(1.0 - 0.2 - 0.5 * share)
    assert shaped.evidence["unshaped"] == 1.0
    error = Reward(None, "error")
    assert shape(error, bad, ShapingConfig(format=1.0)) is error


def test_form_and_script():
    assert well_formed("<think>a</think>b")
    assert well_formed("a</think>b")  # the template opened it
    assert not any(map(well_formed, ("b", "<think>a", "<think>a</think>", "<think>a</think>b</think>c", "</think> ")))
    assert foreign_share("Solve $x$", "The answer is \\alpha, $\\beta$") == 0.0
    assert foreign_share("日本語で答えて", "漢字とカタカナ") == 0.0
    assert foreign_share("123", "что") == 0.0
