"""What compilers made, kept by what they were given."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from components.failures import InfrastructureError
from components.sandbox import Program
from components.sandbox.compile_cache import CompileCache, Compiled
from components.sandbox.languages import find_language

C = find_language("c")
PROGRAM = Program("c", "int main(){}", {"a.h": "1"})


def test_equal_programs_are_compiled_once_and_unequal_ones_are_not_mixed():
    cache, calls = CompileCache(1 << 20), []

    def compile_(name: str):
        return lambda: calls.append(name) or Compiled({"main": name.encode()})

    variants = {
        "first": (C, PROGRAM),
        "source": (C, replace(PROGRAM, source="int main(){ }")),
        "file": (C, replace(PROGRAM, files={"a.h": "2"})),
        "file name": (C, replace(PROGRAM, files={"b.h": "1"})),
        "no file": (C, replace(PROGRAM, files={})),
        "bytes moved between fields": (C, replace(PROGRAM, source="int main(){}a.h", files={"": "1"})),
        "flags": (replace(C, compile=(*C.compile, "-g")), PROGRAM),
    }
    for name, (language, program) in variants.items():
        assert cache.get(language, program, compile_(name)) == (Compiled({"main": name.encode()}), False)
    for name, (language, program) in variants.items():
        assert cache.get(language, program, compile_("again"))[0].outputs == {"main": name.encode()}
    assert calls == list(variants)
    assert (cache.hits, cache.misses) == (len(variants), len(variants))


def test_programs_that_arrive_together_are_compiled_once():
    cache, calls, got = CompileCache(1 << 20), [], []

    def slow() -> Compiled:
        calls.append(1)
        time.sleep(0.05)
        return Compiled({"main": b"x"})

    threads = [threading.Thread(target=lambda: got.append(cache.get(C, PROGRAM, slow)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert got == [Compiled({"main": b"x"})] * 8


def test_failures_are_raised_to_everybody_and_not_kept():
    cache = CompileCache(1 << 20)

    def broken() -> Compiled:
        raise InfrastructureError("gone")

    with pytest.raises(InfrastructureError, match="gone"):
        cache.get(C, PROGRAM, broken)
    starved = Compiled(error="too slow", lasting=False)
    assert cache.get(C, PROGRAM, lambda: starved) == (starved, False)
    wrong = Compiled(error="line 1: error")
    assert cache.get(C, PROGRAM, lambda: wrong) == (wrong, False)
    assert cache.get(C, PROGRAM, broken) == (wrong, True)


def test_what_was_used_longest_ago_goes_first():
    cache = CompileCache(3500)
    programs = [Program("c", str(number)) for number in range(3)]
    for number, program in enumerate(programs):
        cache.get(C, program, lambda number=number: Compiled({"main": bytes(800)}, seconds=number))
        cache.get(C, programs[0], lambda: Compiled())
    assert [cache.get(C, program, lambda: Compiled({"main": bytes(99)}))[1] for program in programs] == [
        True,
        False,
        True,
    ]
    assert cache.get(C, Program("c", "large"), lambda: Compiled({"main": bytes(9000)}))[1] is False
    assert cache.get(C, Program("c", "large"), lambda: Compiled({"main": bytes(9000)}))[1] is False
