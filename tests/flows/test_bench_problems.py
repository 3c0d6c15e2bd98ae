"""Mutants, and a few real problems with their solutions; the whole is `ringflow bench problems`."""

from __future__ import annotations

import ast

import pytest

from components.sandbox import Program, Sandbox, Test
from flows.bench import problems


def test_each_operator_changes_one_place_and_the_rest_stays():
    source = "def f(a, b):\n    while a < b and b:\n        a += 1\n    return a - b\n"
    found = problems.mutants(source)
    assert {operator for operator, _ in found} == {
        "comparison",
        "arithmetic",
        "logic",
        "condition",
        "constant",
        "return",
    }
    texts = [text for _, text in found]
    assert len(set(texts)) == len(texts) == 7
    assert all(ast.unparse(ast.parse(text)) == text != ast.unparse(ast.parse(source)) for text in texts)
    assert "a <= b and b" in "".join(text for operator, text in found if operator == "comparison")


@pytest.mark.parametrize("name", problems.SETS)
def test_solutions_are_accepted_and_broken_ones_are_not(name):
    if not problems.DATA.exists():
        pytest.skip("../shared/data is not here")
    chosen = problems.spaced(list(problems.SETS[name]()), 8)
    with Sandbox(1, libraries=problems.LIBRARIES) as pool:
        right = pool.run_many([(Program("python", p.prefix + p.solution), [Test(unit=p.unit)]) for p in chosen])
        assert [result.verdict for result in right] == ["accepted"] * len(chosen)
        returns = [(p, text) for p in chosen for operator, text in problems.mutants(p.solution) if operator == "return"]
        broken = [(Program("python", p.prefix + text), [Test(unit=p.unit)]) for p, text in returns[:6]]
        assert sum(result.accepted for result in pool.run_many(broken)) <= len(broken) // 2
