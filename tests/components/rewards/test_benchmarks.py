"""Reference answers of real benchmarks: each equals itself and its rewritings, and no other item's, as far as text and
exact numbers decide. tables.py has the whole, with symbols."""

from __future__ import annotations

import pytest

from components.rewards.math import quick_equal
from tests.components.rewards.tables import FILES, others, reference_answers, rewritings


@pytest.mark.parametrize("name", FILES)
def test_reference_answers(name):
    answers = reference_answers(name)
    if answers is None:
        pytest.skip(f"{name} is not here: ../shared/data is absent")
    assert all(quick_equal(answer, answer) for answer in answers)
    verdicts = [(form, answer, quick_equal(form, answer)) for answer in answers for form in rewritings(answer)]
    assert not [(form, answer) for form, answer, equal in verdicts if equal is False]
    assert sum(bool(equal) for *_, equal in verdicts) > 0.8 * len(verdicts)
    confused = [pair for pair in others(answers) if quick_equal(*pair)]
    assert not confused
