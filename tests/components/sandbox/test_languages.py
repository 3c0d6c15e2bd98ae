# ruff: noqa: E501
"""Every language of the table that this machine has: standard input, a compile error, a time limit. The rest is skipped."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from components.sandbox import Limits, Program, Sandbox, Test
from components.sandbox import languages as table
from components.sandbox.languages import LANGUAGES, available_languages, language_version, missing_tools


@dataclass(frozen=True)
class Samples:
    """`broken`: does not compile, or for an interpreter does not parse."""

    double: str
    broken: str
    endless: str


SAMPLES = {
    "python": Samples("print(2 * int(input()))", "def f(:", "while True: pass"),
    "c": Samples('#include <stdio.h>\nint main(){int x;scanf("%d",&x);printf("%d\\n",2*x);}', "int main( {", "int main(){for(;;);}"),
    "cpp": Samples("#include <iostream>\nint main(){int x;std::cin>>x;std::cout<<2*x;}", "int main( {", "int main(){volatile int x=0;for(;;)x++;}"),
    "java": Samples(
        "import java.util.*;public class Main{public static void main(String[] a){System.out.println(2*new Scanner(System.in).nextInt());}}",
        "public class Main {", "public class Main{public static void main(String[] a){while(true);}}",
    ),
    "javascript": Samples("console.log(2*parseInt(require('fs').readFileSync(0,'utf8')))", "let = = 1", "while(true);"),
    "typescript": Samples(
        "import * as fs from 'fs';\nconst x: number = parseInt(fs.readFileSync(0,'utf8'));\nconsole.log(2*x);",
        "let x: number = 'text';", "while(true);",
    ),
    "go": Samples('package main\nimport "fmt"\nfunc main(){var x int;fmt.Scan(&x);fmt.Println(2*x)}', "package main\nfunc main(){", "package main\nfunc main(){for{}}"),
    "rust": Samples(
        "use std::io;fn main(){let mut s=String::new();io::stdin().read_line(&mut s).unwrap();println!(\"{}\",2*s.trim().parse::<i32>().unwrap());}",
        "fn main() {", "fn main(){loop{}}",
    ),
    "haskell": Samples("main :: IO ()\nmain = do { x <- readLn; print (2 * x :: Int) }", "main = (", "main :: IO ()\nmain = main >> main"),
    "ocaml": Samples("let () = Scanf.scanf \" %d\" (fun x -> Printf.printf \"%d\\n\" (2*x))", "let () = (", "let () = while true do () done"),
    "csharp": Samples(
        "using System;class P{static void Main(){Console.WriteLine(2*int.Parse(Console.ReadLine()));}}", "class P {", "class P{static void Main(){while(true);}}"
    ),
    "ruby": Samples("puts 2*gets.to_i", "def f(", "loop {}"),
    "php": Samples("<?php echo 2*intval(fgets(STDIN));", "<?php function (", "<?php while(true);"),
    "perl": Samples("my $x=<STDIN>; print 2*$x", "sub {", "while(1){}"),
    "lua": Samples("print(2*io.read('n'))", "local = 1", "while true do end"),
    "bash": Samples("read x; echo $((2*x))", "if then", "while :; do :; done"),
    "r": Samples("x <- scan(file('stdin'), quiet=TRUE); cat(2*x)", "f <- function( {", "while (TRUE) {}"),
    "sql": Samples("select 42;", "selec 42;", "with recursive c(x) as (select 1 union all select x+1 from c) select count(*) from c;"),
}  # fmt: skip
ROOMY = Limits(cpu_s=10, wall_s=40)
SHORT = Limits(cpu_s=0.4, wall_s=20)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as pool:
        yield pool


def test_every_language_of_the_table_has_samples_and_the_named_ones_are_there():
    assert SAMPLES.keys() == {row.name for row in LANGUAGES}
    assert len(LANGUAGES) >= 17


@pytest.mark.parametrize("language", SAMPLES)
def test_language(sandbox, language):
    if language not in available_languages():
        pytest.skip(f"{language} is not installed here (make languages)")
    sample = SAMPLES[language]
    tests = [Test(stdin="21\n", expected="42"), Test(stdin="21\n", expected="43")]
    result = sandbox.run(Program(language, sample.double), tests, ROOMY)
    assert [test.verdict for test in result.tests] == ["accepted", "wrong-answer"], result
    broken = sandbox.run(Program(language, sample.broken), [Test(stdin="")], ROOMY)
    compiled = language == "python" or bool(next(row for row in LANGUAGES if row.name == language).compile)
    assert broken.verdict == ("compile-error" if compiled else "runtime-error"), broken
    assert sandbox.run(Program(language, sample.endless), [Test(stdin="")], SHORT).verdict == "time-limit"


@pytest.mark.parametrize("language", available_languages())
def test_an_available_language_says_its_version(language):
    row = next(row for row in LANGUAGES if row.name == language)
    assert any(letter.isdigit() for letter in language_version(row))


def test_a_missing_language_is_unavailable_and_never_wrong(sandbox, monkeypatch):
    monkeypatch.setattr(table, "find_tool", lambda tool: None)
    rows = [row for row in LANGUAGES if row.name != "python"]
    assert available_languages() == ["python"]
    for row in rows:
        result = sandbox.run(Program(row.name, "x"), [Test(stdin="", expected="1")])
        assert result.verdict == "unavailable"
        assert missing_tools(row)[0] in result.detail
    assert language_version.__wrapped__(rows[0]) == ""
