"""The remaining time of an evaluation, against a clock of ours."""

from __future__ import annotations

import pytest

from components.evaluation.pace import Pace


def test_what_is_left_is_counted_in_tokens_of_its_own_kind() -> None:
    now = [0.0]
    pace = Pace([("aime", 1)] * 4 + [("gsm", 0)] * 6, clock=lambda: now[0])
    assert pace.seconds_left() is None
    now[0] = 10.0
    pace.drawn([(("aime", 1), 900), (("aime", 1), 1100)])
    assert pace.rate == 200
    # two long answers of 1000 tokens; six of a kind not seen yet, taken as long as all others
    assert pace.seconds_left() == pytest.approx(8 * 1000 / 200)
    now[0] = 11.0
    pace.drawn([(("gsm", 0), 100)])
    assert pace.seconds_left() == pytest.approx((2 * 1000 + 5 * 100) / (2100 / 11))
    assert pace.text() == "answers, 191 tokens/s, 13 s left"


def test_nothing_left_is_zero() -> None:
    pace = Pace([("a", 0)], clock=iter([0.0, 1.0, 2.0, 3.0]).__next__)
    pace.drawn([(("a", 0), 10)])
    assert pace.seconds_left() == 0
