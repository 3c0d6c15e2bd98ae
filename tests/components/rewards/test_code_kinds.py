"""Code rewards by unit tests and by a checker, on the real sandbox."""

from __future__ import annotations

import pytest

from components.rewards.code import code_job, code_limits, code_reward
from components.sandbox import Sandbox, languages

UNIT = {"tests": [{"unit": "from solution import f\nassert f(1) == 2\n"}]}
CHECKED = {
    "tests": [{"stdin": "5\n", "stdout": ""}],
    "checker": {
        "language": "python",
        "source": "import sys\na, b = open(sys.argv[2]).read().split()\nsys.exit(int(a) + int(b) != 5)",
    },
}


@pytest.fixture(scope="module")
def pool():
    with Sandbox(1) as running:
        yield running


@pytest.mark.parametrize(
    ("reference", "source", "value"),
    [
        (UNIT, "def f(x): return x + 1", 1.0),
        (UNIT, "class E:\n def __eq__(s, o): return True\ndef f(x): return E()", 0.0),
        (UNIT, "import os\nos._exit(0)", 0.0),
        (CHECKED, "n = int(input())\nprint(1, n - 1)", 1.0),
        (CHECKED, "print(1, 1)", 0.0),
        (CHECKED, "print('x', 'y')", None),
    ],
)
def test_rewards(pool, reference, source, value):
    job = code_job(f"```python\n{source}\n```", reference)
    assert job is not None
    reward = code_reward(pool.run(*job, code_limits(reference, 5.0)), len(job[1]))
    assert reward.value == value, reward
    assert reward.evidence["tier"] == "strict"


def test_a_language_that_is_not_here_masks_the_sample(pool, monkeypatch):
    """Right or wrong, nothing is known of the program: an error, and never 0."""
    monkeypatch.setattr(languages, "find_tool", lambda tool: None)
    job = code_job("</think>print((<>+3)%10)", {"language": "perl", "tests": [{"stdin": "1\n", "stdout": "4"}]})
    reward = code_reward(pool.run(*job), 1)
    assert reward.value is None
    assert reward.verdict == "error"
    assert "perl" in reward.evidence["problem"]
