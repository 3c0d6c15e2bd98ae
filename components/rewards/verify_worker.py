"""A process that compares expressions with math-verify: one JSON line in, one out. Killed from outside when it is late.

Each pair is compared in a fork of the warm interpreter, so a bomb costs its fork and no restart. math-verify bounds
itself with signal.alarm, in real time; here its alarms are off, and the kernel bounds the processor time of the fork
instead (SIGXCPU), so a loaded machine never turns a right answer into a wrong one. Single-threaded, in a sandbox
without network, with bounded memory.
"""

import json
import logging
import os
import resource
import signal
import sys


def compare(equal, request: dict, processor_s: int, memory_bytes: int) -> dict:
    """The reply for one pair, from a fork of this process."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            resource.setrlimit(resource.RLIMIT_CPU, (processor_s, processor_s + 1))
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
            reply = {"equal": equal(request["reference"], request["answer"])}
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


def main() -> None:
    processor_s, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    sys.path[:0] = json.loads(sys.argv[3])
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
    from sympy import Basic, I

    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None)

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

    def complex_units(parsed: list) -> list:
        return [
            part.subs({symbol: I for symbol in part.free_symbols if symbol.name == "i"})
            if isinstance(part, Basic)
            else part
            for part in parsed
        ]

    equal("\\frac{1}{2}", "\\sqrt{0.25}")
    sys.setrecursionlimit(3000)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(compare(equal, json.loads(line), processor_s, memory_bytes)), flush=True)


if __name__ == "__main__":
    main()
