"""A process that judges answers: one JSON line in, one out. Killed from outside when it is late.

Mode `math` compares expressions with math-verify; mode `logic` asks the verifier of a reasoning-gym generator, some of
which read the answer as an expression.

Each pair is compared in a fork of the warm interpreter, so a bomb costs its fork and no restart. math-verify bounds
itself with signal.alarm, in real time; here its alarms are off, and the kernel bounds the processor time of the fork
instead (SIGXCPU), so a loaded machine never turns a right answer into a wrong one. Single-threaded, in a sandbox
without network, with bounded memory.
"""

import gc
import json
import logging
import os
import resource
import signal
import sys

# Compared once before the first fork: parsers and sympy keep what they work out, and every fork has it then.
FORMS = (
    "\\frac{1}{2}", "x^2+1", "(1,2)", "[1,2)", "\\{1,2\\}", "3\\pi", "x=5", "\\sin(x)", "\\sqrt{2}+1",
    "(-\\infty,2]\\cup[3,\\infty)",
)  # fmt: skip


def compare(judge, request: dict, processor_s: int, memory_bytes: int) -> dict:
    """The reply for one answer, from a fork of this process."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
            reply = judge(request)
        except BaseException as error:
            # What the checker cannot digest is not equal to what it can; the evidence shows it.
            reply = {"equal": False, "problem": f"{type(error).__name__}: {error}"[:300]}
        os.write(write_end, json.dumps(reply).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as answers:
        text = answers.read()
    status = os.waitpid(pid, 0)[1]
    if text:
        return json.loads(text)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"equal": False, "problem": f"needs more than {processor_s} s of processor time to compare"}
    return {"equal": False, "problem": f"the comparison ended with status {status}"}


def math_judge():
    """(reference, answer) -> equal as expressions."""
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
    from sympy import Basic, I

    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None)

    def complex_units(parsed: list) -> list:
        return [
            part.subs({symbol: I for symbol in part.free_symbols if symbol.name == "i"})
            if isinstance(part, Basic)
            else part
            for part in parsed
        ]

    def equal(reference: str, answer: str) -> bool:
        gold, given = read(reference), read(answer)
        if not gold:
            return False
        if verify(gold, given, timeout_seconds=None):
            return True
        # math-verify reads i as a variable unless the form is a complex number.
        complex_gold, complex_given = complex_units(gold), complex_units(given)
        if (complex_gold, complex_given) == (gold, given):
            return False
        return bool(verify(complex_gold, complex_given, timeout_seconds=None))

    for form in FORMS:
        for other in (form, "x + 2"):
            equal(form, other)
    return lambda request: {"equal": equal(request["reference"], request["answer"])}


def logic_judge():
    """(entry of a generator, answer) -> full marks or not, and the marks."""
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    made: dict = {}

    def tuples(value):
        if isinstance(value, dict):
            return {key: tuples(part) for key, part in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    def judge(request: dict) -> dict:
        entry = request["entry"]
        name = entry["metadata"]["source_dataset"]
        if name not in DATASETS:
            return {"equal": False, "bad_input": f"reasoning-gym has no generator {name!r}"}
        if name not in made:
            made[name] = create_dataset(name, size=1, seed=0)
        # JSON turned tuples into lists, and some verifiers tell them apart.
        entries = (entry, entry | {"metadata": tuples(entry["metadata"])})
        score = max(float(made[name].score_answer(answer=request["answer"], entry=form)) for form in entries)
        return {"equal": score >= 1.0, "score": score}

    return judge


def main() -> None:
    processor_s, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    sys.path[:0] = json.loads(sys.argv[3])
    logging.disable(logging.CRITICAL)
    judge = {"math": math_judge, "logic": logic_judge}[sys.argv[4]]()
    sys.setrecursionlimit(3000)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page there is
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(compare(judge, json.loads(line), processor_s, memory_bytes)), flush=True)


if __name__ == "__main__":
    main()
