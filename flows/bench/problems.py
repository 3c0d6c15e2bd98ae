"""Published problems with their own reference solutions: every one accepted, and mutants rejected as their tests allow.

HumanEval, MBPP and LeetCode's training problems have solutions; their test files run as they are, as unit tests in an
examiner. Mutants are systematic: each operator changes one place of the solution at a time (mutation testing, DeMillo,
Lipton and Sayward, 1978). A mutant that survives is equivalent to the solution, or the tests do not tell it apart: the
rate is a property of the tests, and no sandbox can be better.
"""

from __future__ import annotations

import ast
import copy
import gzip
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.cluster.connect import cores
from components.failures import BadInput
from components.sandbox import Limits, Program, Sandbox, Test
from flows.bench import Bench, Figure

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LIBRARIES = ("sortedcontainers",) if importlib.util.find_spec("sortedcontainers") else ()
PROBLEMS = 150  # of each set, evenly spaced
MUTANTS = 6  # of each problem, evenly spaced over all its mutants
LIMITS = Limits(cpu_s=10, wall_s=20, memory_bytes=1 << 30)
MUTANT_LIMITS = Limits(cpu_s=3, wall_s=8, memory_bytes=1 << 30)
# What the graders of these sets give every solution.
PRELUDE = (
    "import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import *\nfrom operator import *\nfrom string import *\nfrom typing import *\n"
    "inf = float('inf')\n"
)
NODES = """
class ListNode:
    def __init__(self, val=0, next=None): self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None): self.val, self.left, self.right = val, left, right
def list_node(values):
    first = ListNode()
    last = first
    for value in values: last.next = last = ListNode(value)
    return first.next
def tree_node(values):
    if not values: return None
    root, rest = TreeNode(values[0]), iter(values[1:])
    row = collections.deque([root])
    while row:
        node = row.popleft()
        for side in ("left", "right"):
            value = next(rest, None)
            if value is not None:
                setattr(node, side, TreeNode(value))
                row.append(getattr(node, side))
    return root
"""
# With the tests, where the program cannot change them.
SAME = """
def is_same_list(a, b):
    while a is not None and b is not None:
        if a.val != b.val: return False
        a, b = a.next, b.next
    return a is None and b is None
def is_same_tree(a, b):
    if a is None or b is None: return a is None and b is None
    return a.val == b.val and is_same_tree(a.left, b.left) and is_same_tree(a.right, b.right)
"""
_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
                ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
               ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """prefix: what comes before the solution and is not mutated."""

    name: str
    prefix: str
    solution: str
    unit: str


def humaneval() -> Iterator[Problem]:
    for record in _records("benchmarks/humaneval.jsonl"):
        unit = f"{record['test']}\ncheck({record['entry_point']})\n"
        yield Problem(record["task_id"], "", record["prompt"] + record["canonical_solution"], unit)


def mbpp() -> Iterator[Problem]:
    for record in _records("benchmarks/mbpp_sanitized.jsonl"):
        yield Problem(
            f"MBPP/{record['task_id']}", "", record["code"], "\n".join(record["test_imports"] + record["test_list"])
        )


def leetcode() -> Iterator[Problem]:
    for number, record in enumerate(_records("corpora/leetcode_train.jsonl.gz")):
        unit = SAME + record["tests"]["functional"]
        yield Problem(f"LeetCode/{number}", PRELUDE + NODES, record["solutions"], unit)


SETS = {"humaneval": humaneval, "mbpp": mbpp, "leetcode": leetcode}


def _records(name: str) -> Iterator[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        raise BadInput(
            "the problems are not here", where=str(path), remedy="Put the public data sets beside the repository"
        )
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield json.loads(line)


def spaced(items: list, count: int) -> list:
    """At most `count` items, evenly spaced."""
    return items if len(items) <= count else [items[index * len(items) // count] for index in range(count)]


def mutants(source: str) -> list[tuple[str, str]]:
    """(operator, program) for every place an operator applies to; programs equal to the source are left out."""
    tree = ast.parse(source)
    original, found = ast.unparse(tree), []
    for position, node in enumerate(ast.walk(tree)):
        for operator, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(other for index, other in enumerate(ast.walk(changed)) if index == position)
            change(target)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text != original:
                found.append((operator, text))
    return found


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield "comparison", lambda n: n.ops.__setitem__(0, _COMPARISONS[type(n.ops[0])]())
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "arithmetic", lambda n: setattr(n, "op", _ARITHMETIC[type(n.op)]())
    if isinstance(node, ast.BoolOp):
        yield "logic", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(node, ast.If | ast.While):
        yield "condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Return) and node.value is not None:
        yield "return", lambda n: setattr(n, "value", ast.Constant(None))


def run(steps: int | None = None) -> Bench:
    """steps: problems of each set.

    Raises:
        BadInput: the data sets are not beside the repository.
    """
    figures: dict[str, Figure] = {}
    refused: list[str] = []
    killed: dict[str, list[bool]] = {}
    with Sandbox(cores(), libraries=LIBRARIES) as pool:
        for name, problems_of in SETS.items():
            problems = spaced(list(problems_of()), steps or PROBLEMS)
            jobs = [(Program("python", p.prefix + p.solution), [Test(unit=p.unit)]) for p in problems]
            results = pool.run_many(jobs, LIMITS)
            accepted = [result.accepted for result in results]
            refused += [
                f"{p.name} {r.verdict}: {(r.detail or r.tests[0].detail or r.tests[0].stderr)[-120:]}"
                for p, r in zip(problems, results, strict=True)
                if not r.accepted
            ]
            changed = [
                (operator, Program("python", p.prefix + text), [Test(unit=p.unit)])
                for p, right in zip(problems, accepted, strict=True)
                if right
                for operator, text in spaced(mutants(p.solution), MUTANTS)
            ]
            verdicts = pool.run_many([(program, tests) for _, program, tests in changed], MUTANT_LIMITS)
            broken = sum(result.verdict in ("infrastructure-error", "unavailable") for result in [*results, *verdicts])
            rejected = [not result.accepted for result in verdicts]
            for (operator, _, _), dead in zip(changed, rejected, strict=True):
                killed.setdefault(operator, []).append(dead)
            figures[f"{name}: problems"] = Figure.of([len(problems)], "problems")
            figures[f"{name}: solutions accepted"] = Figure.of([100 * sum(accepted) / len(accepted)], "%")
            figures[f"{name}: mutants"] = Figure.of([len(changed)], "programs")
            figures[f"{name}: mutants rejected"] = Figure.of([100 * sum(rejected) / max(1, len(rejected))], "%")
            figures[f"{name}: failures of the machine"] = Figure.of([broken], "programs")
    for operator, dead in sorted(killed.items()):
        figures[f"mutants by {operator} rejected"] = Figure.of([100 * sum(dead) / len(dead)], "%")
    return Bench(figures, {"solutions_refused": refused or "none", "mutants_of_each": MUTANTS})
