import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.normalise import is_prose, numbers, tokens


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A farmer has 12 cows.", "a  FARMER\nhas 12\tcows"),
        (r"Find $\frac{1}{2} \cdot x$.", "find 1/2 * x"),
        ("**Find** the [sum](http://x.y)", "Find the sum"),
        ("It costs $1,200.50 today", "it costs 1200.5 today"),
        ("ＦＵＬＬ width ５", "full width 5"),
        ("- one item\n- another item", "one item another item"),
    ],
)
def test_dress_does_not_matter(one, other):
    assert tokens(one) == tokens(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("6a+4", "6a-4"), ("2*(3+4)", "(2*3)+4"), ("sort 3,4,5", "sort 34,5"), ("x = 3", "x = 4"), ("a|b", "a&b")],
)
def test_what_makes_another_problem_is_kept(one, other):
    assert tokens(one) != tokens(other)


def test_chinese_is_split_by_characters():
    assert tokens("求面积12") == ["求", "面", "积", "12"]


def test_numbers_in_words_agree_with_digits():
    assert numbers(tokens("She buys three pens for twelve dollars")) == numbers(tokens("3 pens cost 12 dollars"))


def test_symbols_are_not_prose():
    assert not is_prose(tokens("m:3a+6b*7c-4"))
    assert is_prose(tokens("How many apples does the farmer sell on Monday?"))


@given(st.text(max_size=80))
def test_normalising_twice_changes_nothing_more(text):
    first = tokens(text)
    assert all(token and not token.isspace() for token in first)
    assert tokens(text.replace(" ", "\n  ")) == first or "\n" in text or any(mark in text for mark in "#>-*+`~\\")
