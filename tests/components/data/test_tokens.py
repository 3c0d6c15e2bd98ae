"""What must not matter in a text vanishes, what makes another problem stays."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.text.tokens import formula_like, is_prose, tokenise
from components.data.text.vocabulary import spelled


def tokens(text):
    return tokenise([text]).strings()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A farmer has 12 cows.", "a  FARMER\nhas 12\tcows"),
        (r"Find $\frac{1}{2} \cdot x$.", "find 1/2 * x"),
        (r"\(\dfrac12\) of \left( 3 \times 4 \right)", "1/2 of (3 × 4)"),
        (r"\frac{\frac{1}{2}}{3}", "1/2/3"),
        ("**Find** the [sum](http://x.y)", "Find the sum"),
        ("*Find* _the_ `sum`", "Find the sum"),
        ("It costs $1,200.50 today", "it costs 1200.5 today"),
        (r"about 1{,}234 or 10\,000", "about 1234 or 10,000"),
        ("ＦＵＬＬ width ５", "full width 5"),
        ("- one item\n- another item", "one item another item"),
        ("> a quotation\n# and a heading", "a quotation and a heading"),
        ("x² is π", "x^2 is pi"),
        (r"an angle of $90^\circ$", "an angle of 90°"),
        ("```python\nreturn x\n```", "return x"),
        ("the cost — in dollars — is “high”…", "the cost, in dollars, is high"),
        ("twenty-five cows and one hundred and three hens", "25 cows and 103 hens"),
        ("two thousand three hundred and four", "2,304"),
        ("a 5-year-old well-known dog", "a 5 year old well known dog"),
        (r"\begin{align} a \le b \end{align}", "a ≤ b"),
    ],
)
def test_dress_does_not_matter(one, other):
    assert tokens(one) == tokens(other)
    assert np.array_equal(tokenise([one]).hashes, tokenise([other]).hashes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("6a+4", "6a-4"),
        ("2*(3+4)", "(2*3)+4"),
        ("sort 3,4,5", "sort 34,5"),
        ("x = 3", "x = 4"),
        ("a|b", "a&b"),
        ("1.5 km", "15 km"),
        ("two, three", "twenty-three"),
        ("5 factorial is 5!", "5 factorial is 5"),
    ],
)
def test_what_makes_another_problem_is_kept(one, other):
    assert tokens(one) != tokens(other)


def test_chinese_is_split_by_characters():
    assert tokens("求面积12") == ["求", "面", "积", "12"]


@settings(deadline=None)  # the first call may compile
@given(st.integers(0, 999_999))
def test_number_words_are_numbers(value):
    assert (
        tokens(f"she has {spelled(value)} pens") == tokens(f"she has {value} pens") == tokens(f"she has {value:,} pens")
    )


def test_symbols_are_not_prose():
    batch = tokenise(["m:3a+6b*7c-4", "How many apples does the farmer sell on Monday?", "農夫星期一卖了多少个苹果呢"])
    assert is_prose(batch).tolist() == [False, True, True]
    assert formula_like(batch).tolist() == [True, False, False]


@settings(deadline=None)  # the first call may compile
@given(st.lists(st.text(max_size=60), max_size=6))
def test_a_batch_is_its_texts_one_by_one(texts):
    batch = tokenise(texts)
    for position, text in enumerate(texts):
        single = tokenise([text])
        assert np.array_equal(batch.text(position).hashes, single.hashes)
        assert np.array_equal(batch.text(position).kinds, single.kinds)
        assert single.strings() == batch.text(position).strings()


@settings(deadline=None)  # the first call may compile
@given(st.text(max_size=80))
def test_equal_strings_have_equal_hashes_and_lines_do_not_matter(text):
    batch = tokenise([text])
    strings = batch.strings()
    assert all(token and not token.isspace() for token in strings)
    assert len(strings) == len(batch.hashes)
    if not re.search(r"[#>\-*+`~\\\]]", text):
        assert tokens(text.replace(" ", "\n  ")) == strings
