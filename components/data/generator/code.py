"""Code families: write a program from labelled steps. Checked by running it on tests.

`integers` and `fold` ask for a Python function. `fold_in` asks for `fold` as a whole program in one of many languages,
named by a letter of the prompt, that reads a digit and prints one: for recipes that name languages
(corpus.sources: code_languages).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from components.data.generator.problem import Family, Problem, labels, outline
from components.data.schema import Verifier
from components.recipe.data import CodeLanguage

_STATEMENTS = {"A": "+{n}", "S": "-{n}", "M": "*{n}", "R": "%{n}"}
_INTEGER_TESTS = (0, 1, 7, -4, 23)
_DIGIT_TESTS = (0, 3, 5, 8, 9)


def _verifier(program: str, arguments: tuple[int, ...]) -> Verifier:
    namespace: dict = {}
    exec(program, namespace)  # our own statements, to find what the tests expect
    tests = [{"call": f"f({value!r})", "result": repr(namespace["f"](value))} for value in arguments]
    return Verifier(kind="code", reference={"language": "python", "entry_point": "f", "tests": tests})


def integers(level: int, rng: random.Random) -> Problem:
    """`f:aA3bM2` -> `a+3;b*2;` -> a function with one statement per step, each naming its value by the label."""
    prompt, thinking, key, body, value = "f:", "", "f:", "", "x"
    chosen = labels(level, rng)
    for label in chosen:
        code, operand = rng.choice("ASMR"), rng.randrange(2, 10)
        operation = _STATEMENTS[code].format(n=operand)
        prompt += f"{label}{code}{operand}"
        key += operation
        thinking += f"{label}{operation};"
        body += f"\n {label}={value}{operation}"
        value = label
    program = f"def f(x):{body}\n return {value}"
    return Problem(prompt, thinking, program, _verifier(program, _INTEGER_TESTS), key, outline(chosen))


def fold(level: int, rng: random.Random) -> Problem:
    """`g:aA3bS1` -> `a0+3=3;b3-1=2;` -> `def f(x):\\n return (x+2)%10`: many shifts of a digit folded into one.

    What compilers call constant folding: the program is short, and only working the steps out finds its constant.
    """
    steps = _fold_steps(level, rng)
    program = f"def f(x):\n return (x+{steps.state})%10"
    verifier = _verifier(program, _DIGIT_TESTS)
    return Problem(f"g:{steps.prompt}", steps.thinking, program, verifier, f"g:{steps.key}", outline(steps.labels))


# The mark of each language in a prompt, and the shortest program in it that reads x and prints (x + shift) % 10.
_PROGRAMS: Mapping[CodeLanguage, tuple[str, str]] = {
    "python": ("y", "print((int(input())+{n})%10)"),
    "c": ("c", '#include<stdio.h>\nint main(){{int x;scanf("%d",&x);printf("%d",(x+{n})%10);}}'),
    "cpp": ("p", "#include<iostream>\nint main(){{int x;std::cin>>x;std::cout<<(x+{n})%10;}}"),
    "javascript": ("j", 'console.log((+require("fs").readFileSync(0)+{n})%10)'),
    "perl": ("l", "print((<>+{n})%10)"),
    "bash": ("b", "read x;echo $(((x+{n})%10))"),
}


def fold_in(languages: tuple[CodeLanguage, ...]) -> Family:
    """The family `fold` with a language drawn for every problem: `gc:aA3bS1` asks for C."""

    def make(level: int, rng: random.Random) -> Problem:
        language = rng.choice(languages)
        mark, template = _PROGRAMS[language]
        steps = _fold_steps(level, rng)
        tests = [{"stdin": f"{x}\n", "stdout": str((x + steps.state) % 10)} for x in _DIGIT_TESTS]
        return Problem(
            f"g{mark}:{steps.prompt}",
            steps.thinking,
            template.format(n=steps.state),
            Verifier(kind="code", reference={"language": language, "tests": tests}),
            f"g{mark}:{steps.key}",
            outline(steps.labels),
        )

    return Family("code", "fold", make)


@dataclass(frozen=True)
class _Fold:
    """prompt: the steps as asked. thinking: worked out. key: without labels. state: what they fold into."""

    prompt: str
    thinking: str
    key: str
    labels: str
    state: int


def _fold_steps(level: int, rng: random.Random) -> _Fold:
    state, prompt, thinking, key = 0, "", "", ""
    chosen = labels(level + 1, rng)
    for label in chosen:
        code, operand = rng.choice("AS"), rng.randrange(1, 4)
        operator = "+" if code == "A" else "-"
        before, state = state, (state + operand if code == "A" else state - operand) % 10
        prompt += f"{label}{code}{operand}"
        key += f"{code}{operand}"
        thinking += f"{label}{before}{operator}{operand}={state};"
    return _Fold(prompt, thinking, key, chosen, state)


TAUGHT = Family("code", "integers", integers)
OPEN = Family("code", "fold", fold)
