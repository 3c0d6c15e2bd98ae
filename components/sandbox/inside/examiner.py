"""The process that examines a program: it has the unit tests, the program has not, and neither can reach the other.

A program in one process with its tests can read them, patch what they compare with, or leave with exit code 0. Here the
program's functions are called from afar (peer.py), and the verdict leaves on a pipe that only this process holds. The
process is not dumpable, so that the program cannot open its memory although the user is the same.
"""

from __future__ import annotations

import _ast
import builtins
import io
import json
import os
import sys

from inside.peer import Far, Gone, Peer
from inside.program import PEER, REPORT, SETUP, VALUE_BYTES, write_all

SHOWN = 500


def run(calls, unit):
    """Examines by a test file, or by `calls` where `unit` is None; never returns."""
    os.chdir("/")
    os.close(SETUP)
    peer = Peer(PEER, guarded=True)
    try:
        names = peer.names()
        if unit is None:
            _calls(names, calls)
        else:
            _report(_unit(names, unit.decode()))
    except (Gone, ValueError, KeyError, TypeError, RecursionError) as error:
        _report({"gone": type(error).__name__})  # the program has ended, or what it sends is no value
    os._exit(0)


def _report(line):
    write_all(REPORT, (json.dumps(line) + "\n").encode())


def _calls(names, calls):
    """Evaluates the expressions with the program's functions far away and everything else here."""
    for call in calls:
        code = compile(call, "call", "eval", dont_inherit=True)
        own = _meant(names, call, "eval")
        try:
            value = eval(code, own)
            text = repr(value)
            line = {"v": text} if len(text) <= VALUE_BYTES else {"e": "OutputTooLarge"}
        except Exception as error:
            line = {"e": type(error).__name__, "m": str(error)[:SHOWN]}
        _report(line)


def _meant(names, tests, mode):
    """The program's names for these tests.

    A program may not pass off its own `abs` or `all` on tests of something else: builtins are taken from it only where
    the tests mention none of its other names, so that one of them is the task.
    """
    mentioned = _mentioned(compile(tests, "tests.py", mode, _ast.PyCF_ONLY_AST)) & names.keys()
    if any(not hasattr(builtins, name) for name in mentioned):
        return {name: value for name, value in names.items() if not hasattr(builtins, name)}
    return dict(names)


def _mentioned(tree):
    """Every name in a syntax tree. The module ast would do it, and take longer to load than most tests to run."""
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, _ast.Name):
            found.add(node.id)
        for field in node._fields:
            value = getattr(node, field, None)
            todo += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, _ast.AST)]
    return found


def _unit(names, source):
    """Runs a test file: its statements, then its TestCase classes and its test_ functions.

    {"passed": int, "total": int, "failed": [[name, message]]}; a file of bare assertions is one test.
    """
    module = type(sys)("tests")
    for alias in ("solution", "main"):
        sys.modules[alias] = program = type(sys)(alias)
        program.__dict__.update(names)
        program.__all__ = list(names)
    space = module.__dict__
    space.update(_meant(names, source, "exec"))
    sys.modules["tests"] = module
    try:
        exec(compile(source, "tests.py", "exec", dont_inherit=True), space)
    except Exception as error:
        return {"passed": 0, "total": 1, "failed": [["tests.py", _said(error)]]}
    failed, total = [], 0
    unittest = sys.modules.get("unittest")
    for name, value in list(space.items()):
        case = unittest and isinstance(value, type) and not isinstance(value, Far)
        if case and issubclass(value, unittest.TestCase):
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(value)
            outcome = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
            total += outcome.testsRun
            failed += [[str(one), text[-SHOWN:]] for one, text in outcome.failures + outcome.errors]
        elif name.startswith("test_") and type(value) is type(run):
            total += 1
            try:
                value()
            except Exception as error:
                failed.append([name, _said(error)])
    if total == 0:
        total = 1
    return {"passed": total - len(failed), "total": total, "failed": failed[:20]}


def _said(error):
    return f"{type(error).__name__}: {error}"[:SHOWN]
