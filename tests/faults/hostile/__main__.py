"""What becomes of each hostile program, as a table for docs: `python -m tests.faults.hostile`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from components.sandbox import Program, Sandbox, Test
from components.sandbox.languages import available_languages
from tests.faults.hostile.others import CALLER, KERNEL_SURFACE, OTHERS
from tests.faults.hostile.programs import FORGERIES, PYTHON, SECRET
from tests.faults.hostile.test_hostile import COMPILING, HONEST, LIMITS, SLOW_STARTERS


def rows(pool: Sandbox, secret: Path):
    """(language, name, verdict, whether that is as it should be) of every program that can run here."""
    here = available_languages()
    for name, (source, allowed) in PYTHON.items():
        result = pool.run(Program("python", source.replace("{secret!r}", repr(str(secret)))), [Test(stdin="")], LIMITS)
        yield "python", name, result, result.verdict in allowed
    for name, source in FORGERIES.items():
        test = Test(call="f(1) == 2", expected="True")
        result = pool.run(Program("python", source), [Test(call="f(1)", expected="2"), test], LIMITS)
        yield "python", f"forgery: {name}", result, not any(test.verdict == "accepted" for test in result.tests)
    for language, name, source, allowed in OTHERS:
        if language in here:
            program = Program(language, source.replace("@SECRET@", str(secret)))
            limits = SLOW_STARTERS.get(language, LIMITS)
            result = pool.run(program, [Test(stdin="")], limits, compile_limits=COMPILING)
            yield language, name, result, result.verdict in allowed
    if "c" in here:
        for number, name in KERNEL_SURFACE.items():
            result = pool.run(Program("c", CALLER), [Test(stdin=str(number))], LIMITS)
            refused = result.verdict == "security-violation" or result.tests[0].stdout == "-1\n"
            yield "c", f"kernel: {name}", result, refused


def main() -> int:
    bad, kinds, languages = [], Counter(), Counter()
    print("| language | program | verdict |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Sandbox(workers=1, worker_memory_bytes=1 << 30) as pool:
        secret = Path(folder) / "secret.txt"
        secret.write_text(SECRET)
        pool.warm()
        (pid,) = pool.pids()
        for language, name, result, right in rows(pool, secret):
            said = result.detail + "".join(test.stdout + test.stderr for test in result.tests)
            disturbed = pool.pids() != [pid] or not pool.run(*HONEST).accepted
            if not right or disturbed or SECRET in said or any("LEAK" in test.stdout for test in result.tests):
                bad.append((language, name, result))
            print(f"| {language} | {name} | {result.verdict} |", flush=True)
            kinds[result.verdict] += 1
            languages[language] += 1
    survivors = [process for process in psutil.Process().children(recursive=True) if process.name() != "cat"]
    print(
        f"\n{sum(kinds.values())} programs in {len(languages)} languages: {len(bad)} escaped or disturbed another, ",
        end="",
    )
    print(f"{len(survivors)} processes survived. Verdicts: {', '.join(f'{n} {v}' for v, n in kinds.most_common())}.")
    for entry in bad:
        print(entry, file=sys.stderr)
    return 1 if bad or survivors else 0


if __name__ == "__main__":
    sys.exit(main())
