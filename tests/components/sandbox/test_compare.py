# ruff: noqa: E501
"""Outputs and values, compared on the host."""

from __future__ import annotations

import pytest

from components.sandbox.compare import same_output, same_value


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "same"),
    [
        ("1\n2\n", "1\n2", None, True), ("1 \n2\r\n\n", "1\n2", None, True), ("1 2", "1\n2", None, False),
        (" 1", "1", None, False), ("1\n\n2", "1\n2", None, False), ("0.3333333", "0.33333334", None, False),
        ("0.3333333", "0.33333334", 1e-6, True), ("0.34", "0.33", 1e-6, False), ("nan", "1", 1e-6, False),
        ("a 1.0", "a 1", 1e-6, True), ("a 1", "b 1", 1e-6, False), ("", "", None, True), ("", "1", None, False),
        ("1.50 2\n", " 1.5 2.0", 0.0, True), ("1\n2", "1 2", 0.0, False), ("a 1.0", "a 1", 0.0, False), ("a  b", "a b", 0.0, False),
        ("50000000000000000", "50000000000000001", 0.0, False), ("\n1\n\n", "1", 0.0, True), ("0.3333333", "0.33333334", 0.0, False),
    ],
)  # fmt: skip
def test_outputs(printed, expected, tolerance, same):
    assert same_output(printed, expected, tolerance) is same


@pytest.mark.parametrize(
    ("value", "expected", "tolerance", "same"),
    [
        ("2", "2", None, True), ("2.0", "2", None, True), ("'2'", "2", None, False), ("[1, 2]", "[1,2]", None, True),
        ("(1, 2)", "[1, 2]", None, False), ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}", None, True),
        ("{1, 2}", "{2, 1}", None, True), ("'a'", '"a"', None, True), ("0.1", "0.10000001", None, False),
        ("0.1", "0.10000001", 1e-6, True), ("[0.1, [2]]", "[0.10000001, [2]]", 1e-6, True), ("None", "None", None, True),
        ("__import__('os')", "1", None, False), ("[" * 5000, "1", None, False), ("(" * 90 + ")" * 90, "1", None, False),
        ("inf", "inf", None, True), ("set()", "set()", None, True), ("1e999", "2", 1e-6, False),
    ],
)  # fmt: skip
def test_values(value, expected, tolerance, same):
    assert same_value(value, expected, tolerance) is same
