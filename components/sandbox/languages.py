"""The languages as a table: how a program is compiled and run, and what the machine must have for it.

A language is available when its tools are found; a missing one is reported as `unavailable`, never as a wrong answer.
Python runs in the warm interpreter of the worker and needs no entry in PATH. Tools are looked up where the sandbox can
see them: below /usr, /bin and /opt. Adding a language is adding a row.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/opt/bin"
VISIBLE = ("/usr", "/bin", "/lib", "/lib64", "/opt")


@dataclass(frozen=True)
class Language:
    """`source`: file name of the program. `compile` and `run`: arguments; run in the directory of the source.

    address_space: False for runtimes that reserve far more memory than they use; they get `{heap_mb}` and the cgroup.
    """

    name: str
    source: str
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    address_space: bool = True


LANGUAGES: tuple[Language, ...] = (
    Language("python", "main.py", (), aliases=("py", "python3")),
    Language("c", "main.c", ("/box/main",), ("gcc", "-O2", "-std=gnu17", "-o", "main", "main.c", "-lm"),
             version=("gcc", "-dumpfullversion")),
    Language("cpp", "main.cpp", ("/box/main",), ("g++", "-O2", "-std=gnu++17", "-o", "main", "main.cpp"),
             aliases=("c++", "cxx", "cc"), version=("g++", "-dumpfullversion")),
    Language("java", "Main.java",
             ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx{heap_mb}m", "-Xss64m", "-cp", "/box",
              "Main"),
             ("javac", "-J-Xmx512m", "-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-encoding", "UTF-8",
              "Main.java"),
             version=("java", "-version"), address_space=False),
    Language("javascript", "main.js", ("node", "--max-old-space-size={heap_mb}", "/box/main.js"),
             aliases=("js", "node", "nodejs"), version=("node", "--version"), address_space=False),
    Language("typescript", "main.ts", ("node", "--max-old-space-size={heap_mb}", "/box/main.js"),
             ("tsc", "--target", "es2022", "--module", "commonjs", "main.ts"),
             aliases=("ts",), version=("tsc", "--version"), address_space=False),
    Language("go", "main.go", ("/box/main",), ("go", "build", "-o", "main", "main.go"),
             aliases=("golang",), version=("go", "version"), address_space=False),
    Language("rust", "main.rs", ("/box/main",), ("rustc", "-O", "-o", "main", "main.rs"),
             aliases=("rs",), version=("rustc", "--version")),
    Language("haskell", "main.hs", ("/box/main",), ("ghc", "-O1", "-o", "main", "main.hs"),
             aliases=("hs",), version=("ghc", "--numeric-version"), address_space=False),
    Language("ocaml", "main.ml", ("/box/main",),
             ("ocamlfind", "ocamlopt", "-package", "str", "-linkpkg", "-o", "main", "main.ml"),
             aliases=("ml",), version=("ocamlopt", "-version")),
    Language("csharp", "main.cs", ("mono", "/box/main.exe"), ("mcs", "-out:main.exe", "main.cs"),
             aliases=("c#", "cs"), version=("mono", "--version"), address_space=False),
    Language("ruby", "main.rb", ("ruby", "/box/main.rb"), aliases=("rb",), version=("ruby", "--version")),
    Language("php", "main.php", ("php", "/box/main.php"), version=("php", "--version")),
    Language("perl", "main.pl", ("perl", "/box/main.pl"), aliases=("pl",), version=("perl", "-e", "print $^V")),
    Language("lua", "main.lua", ("lua5.4", "/box/main.lua"), version=("lua5.4", "-v")),
    Language("r", "main.R", ("Rscript", "--vanilla", "/box/main.R"), version=("Rscript", "--version")),
    Language("bash", "main.sh", ("bash", "/box/main.sh"), aliases=("sh", "shell"), version=("bash", "--version")),
    Language("sql", "main.sql", ("sqlite3", "-batch", ":memory:", ".read /box/main.sql"),
             aliases=("sqlite", "sqlite3"), version=("sqlite3", "--version")),
)  # fmt: skip

_BY_NAME = {name: language for language in LANGUAGES for name in (language.name, *language.aliases)}


def find_language(name: str) -> Language | None:
    """The row of a language by its name or an alias, any case; None when the table has no such language."""
    return _BY_NAME.get(name.strip().lower())


def find_tool(tool: str) -> str | None:
    """Where a tool lies that the sandbox can see, or None. A link that leads out of the visible part does not count."""
    if tool.startswith("/box/"):
        return tool
    found = shutil.which(tool, path=_PATH)
    if found is None:
        return None
    return found if os.path.realpath(found).startswith(tuple(f"{root}/" for root in VISIBLE)) else None


def missing_tools(language: Language) -> list[str]:
    """Tools of the row that this machine lacks; empty when the language is available."""
    needed = [arguments[0] for arguments in (language.compile, language.run) if arguments]
    return [tool for tool in needed if find_tool(tool) is None]


def available_languages() -> list[str]:
    """Names of the languages that can run here; Python always."""
    return [language.name for language in LANGUAGES if not missing_tools(language)]


def command(arguments: tuple[str, ...], memory_bytes: int) -> list[str]:
    """Arguments with the tool's full path and the heap size filled in."""
    heap_mb = str(max(16, memory_bytes >> 20))
    filled = [argument.replace("{heap_mb}", heap_mb) for argument in arguments]
    return [find_tool(filled[0]) or filled[0], *filled[1:]]
