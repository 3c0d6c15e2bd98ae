"""The languages as a table: how a program is compiled and run, and what the machine must have for it.

A language is available when its tools are found; a missing one is reported as `unavailable`, never as a wrong answer.
Python runs in the warm interpreter of the worker and needs no entry in PATH. Tools are looked up where the sandbox can
see them: below /usr, /bin and /opt. Adding a language is adding a row. `make languages` installs `packages` of Debian.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/opt/bin"
VISIBLE = ("/usr", "/bin", "/lib", "/lib64", "/opt")
_VERSION_S = 20.0
_MB = 1 << 20


@dataclass(frozen=True)
class Language:
    """`source`: file name of the program in /box. `compile` and `run`: arguments; compiled in /box, run in /tmp.

    outputs: patterns of what the compiler makes and a run needs; they are cached. environment: on top of the fixed one.
    address_space: False for runtimes that reserve far more memory than they use; they get `{heap_mb}` and a bound on
    all their processes together. overhead_bytes: what such a runtime needs besides the program's heap.
    packages: Debian's. helpers: files for the compiler, from the source.
    """

    name: str
    source: str
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("main",)
    aliases: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    address_space: bool = True
    overhead_bytes: int = 0
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    packages: tuple[str, ...] = ()
    helpers: Callable[[str], Mapping[str, str]] | None = None


def node_names(source: str) -> dict[str, str]:
    """Declares what node defines, as far as the program does not: Debian's TypeScript comes without node's types."""
    names = ("require", "process", "Buffer", "module", "exports", "global", "__dirname", "__filename")
    missing = [name for name in names if not re.search(rf"\b(var|let|const|function)\s+{name}\b", source)]
    modules = ("fs", "readline", "util", "events", "assert", "os", "path", "process", "worker_threads", "perf_hooks")
    lines = [f"declare var {name}: any;" for name in missing]
    lines += [f'declare module "{prefix}{name}";' for name in modules for prefix in ("", "node:")]
    return {"node.d.ts": "\n".join(lines) + "\n"}


_NODE = ("node", "--max-old-space-size={heap_mb}", "--stack-size=16000", "/box/main.js")
_TSC = ("tsc", "--target", "es2020", "--module", "commonjs", "--esModuleInterop", "--skipLibCheck", "node.d.ts",
        "main.ts")  # fmt: skip
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")

LANGUAGES: tuple[Language, ...] = (
    Language("python", "main.py", (), aliases=("py", "python3")),
    Language("c", "main.c", ("/box/main",), ("gcc", "-O2", "-std=gnu17", "-o", "main", "main.c", "-lm"),
             version=("gcc", "-dumpfullversion"), packages=("gcc", "libc6-dev")),
    Language("cpp", "main.cpp", ("/box/main",), ("g++", "-O2", "-std=gnu++17", "-o", "main", "main.cpp"),
             aliases=("c++", "cxx", "cc"), version=("g++", "-dumpfullversion"), packages=("g++",)),
    Language("java", "Main.java", ("java", *_JVM, "-Xmx{heap_mb}m", "-Xss64m", "-cp", "/box", "Main"),
             ("javac", "-J-Xmx512m", *(f"-J{flag}" for flag in _JVM), "-encoding", "UTF-8", "Main.java"),
             ("*.class",), version=("java", "--version"), address_space=False, overhead_bytes=192 * _MB,
             packages=("default-jdk-headless",)),
    Language("javascript", "main.js", _NODE, aliases=("js", "node", "nodejs"), version=("node", "--version"),
             address_space=False, overhead_bytes=128 * _MB, packages=("nodejs",)),
    Language("typescript", "main.ts", _NODE, _TSC, ("main.js",), aliases=("ts",), version=("tsc", "--version"),
             address_space=False, overhead_bytes=128 * _MB, packages=("nodejs", "node-typescript"),
             helpers=node_names),
    Language("go", "main.go", ("/box/main",), ("go", "build", "-ldflags", "-s -w", "-o", "main", "main.go"),
             aliases=("golang",), version=("go", "version"), address_space=False, overhead_bytes=32 * _MB,
             environment={"GOCACHE": "/tmp/go", "GOPATH": "/tmp/gopath", "GO111MODULE": "off", "CGO_ENABLED": "0",
                          "GOMAXPROCS": "2", "GOTELEMETRY": "off"}, packages=("golang-go",)),
    Language("rust", "main.rs", ("/box/main",),
             ("rustc", "-O", "-C", "strip=symbols", "--edition", "2021", "-o", "main", "main.rs"),
             aliases=("rs",), version=("rustc", "--version"), packages=("rustc", "gcc")),
    Language("haskell", "main.hs", ("/box/main",), ("ghc", "-O1", "-v0", "-optl-s", "-o", "main", "main.hs"),
             aliases=("hs",), version=("ghc", "--numeric-version"),
             address_space=False, overhead_bytes=32 * _MB, packages=("ghc",)),
    Language("ocaml", "main.ml", ("/box/main",),
             ("ocamlfind", "ocamlopt", "-package", "str", "-linkpkg", "-o", "main", "main.ml"), aliases=("ml",),
             version=("ocamlfind", "ocamlopt", "-version"), packages=("ocaml-nox", "ocaml-findlib")),
    Language("csharp", "main.cs", ("mono", "/box/main.exe"), ("mcs", "-out:main.exe", "main.cs"), ("main.exe",),
             aliases=("c#", "cs"), version=("mono", "--version"), address_space=False, overhead_bytes=64 * _MB,
             packages=("mono-mcs", "mono-runtime", "libmono-system-core4.0-cil", "libmono-system-numerics4.0-cil")),
    Language("ruby", "main.rb", ("ruby", "/box/main.rb"), aliases=("rb",), version=("ruby", "--version"),
             packages=("ruby",)),
    Language("php", "main.php", ("php", "-d", "memory_limit={heap_mb}M", "/box/main.php"),
             version=("php", "--version"), packages=("php-cli",)),
    Language("perl", "main.pl", ("perl", "/box/main.pl"), aliases=("pl",), version=("perl", "-e", "print $^V"),
             packages=("perl",)),
    Language("lua", "main.lua", ("lua5.4", "/box/main.lua"), version=("lua5.4", "-v"), packages=("lua5.4",)),
    Language("bash", "main.sh", ("bash", "/box/main.sh"), aliases=("sh", "shell"), version=("bash", "--version"),
             packages=("bash",)),
    Language("r", "main.R", ("Rscript", "--vanilla", "/box/main.R"), version=("Rscript", "--version"),
             packages=("r-base-core",)),
    Language("sql", "main.sql", ("sqlite3", "-bail", "-batch", ":memory:", ".read /box/main.sql"),
             aliases=("sqlite", "sqlite3"), version=("sqlite3", "--version"), packages=("sqlite3",)),
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


@cache
def language_version(language: Language) -> str:
    """What the tool says its version is; empty when it is not here. Asked once per process."""
    if not language.version:
        return f"Python {sys.version.split()[0]}"
    tool = find_tool(language.version[0])
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, *language.version[1:]], capture_output=True, text=True, timeout=_VERSION_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter((done.stdout or done.stderr).strip().split("\n")), "")


def command(arguments: tuple[str, ...], memory_bytes: int) -> list[str]:
    """Arguments with the tool's full path and the heap size filled in."""
    heap_mb = str(max(16, memory_bytes // _MB))
    filled = [argument.replace("{heap_mb}", heap_mb) for argument in arguments]
    return [find_tool(filled[0]) or filled[0], *filled[1:]]
