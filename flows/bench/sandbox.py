"""The sandbox beside plain subprocess.run (what isolation costs) and bubblewrap started for every program.

Figures of one machine in one run, so that ratios hold on a busy machine too; the three ways are measured in turns. A
program here is what a sandbox costs at least: it prints one line. Compiled programs are compiled before; what is
measured is the run. The soak runs good, wrong, endless and greedy programs from 8 clients and looks for what is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from components.cluster.connect import cores
from components.sandbox import Limits, Program, Sandbox, Test
from components.sandbox.cgroup import leftover_groups
from components.sandbox.isolation import find_bubblewrap, interpreter
from components.sandbox.languages import LANGUAGES, available_languages, command, find_language
from flows.bench import Bench, Figure

SECONDS = 3.0  # each figure that is a rate
SOAK_S = 30.0
CLIENTS = (1, 8, 64)
COLD_STARTS = 3
LIMITS = Limits(cpu_s=10, wall_s=30)
SHORT = Limits(cpu_s=0.4, wall_s=2.0, memory_bytes=256 << 20)

ONE = {
    "python": "print(1)",
    "c": "int puts(const char*);int main(){puts(\"1\");}",
    "cpp": "#include <cstdio>\nint main(){puts(\"1\");}",
    "java": "public class Main{public static void main(String[] a){System.out.println(1);}}",
    "javascript": "console.log(1)",
    "typescript": "console.log(1)",
    "go": 'package main\nimport "fmt"\nfunc main(){fmt.Println(1)}',
    "rust": 'fn main(){println!("1");}',
    "haskell": "main :: IO ()\nmain = print 1",
    "ocaml": "let () = print_endline \"1\"",
    "csharp": "class P{static void Main(){System.Console.WriteLine(1);}}",
    "ruby": "puts 1",
    "php": "<?php echo 1;",
    "perl": "print 1",
    "lua": "print(1)",
    "bash": "echo 1",
    "r": "cat(1)",
    "sql": "select 1;",
}  # fmt: skip


def run(steps: int | None = None) -> Bench:
    """steps: seconds of the soak."""
    soak_s = float(steps or SOAK_S)
    figures: dict[str, Figure] = {"cold start": Figure.of([_cold() for _ in range(COLD_STARTS)], "ms")}
    with Sandbox(cores(), worker_memory_bytes=1 << 30) as pool:
        tier = pool.warm()
        figures |= _clients(pool)
        processor = Figure.of([_processor(pool) for _ in range(5)], "ms/program")
        figures["warm python, processor time"] = processor
        figures["warm python, programs a core can run"] = Figure.of([1e3 / processor.value], "programs/s/core")
        for language in available_languages():
            figures |= _language(pool, language)
    leaks, programs = soak(soak_s)
    figures["soak programs"] = Figure.of([programs], "programs")
    for name, count in leaks.items():
        figures[f"soak left {name}"] = Figure.of([count], name)
    missing = sorted({row.name for row in LANGUAGES} - set(available_languages()))
    setup = {"tier": tier, "workers": cores(), "load_average": round(os.getloadavg()[0], 1), "soak_s": soak_s}
    return Bench(figures, setup | ({"not_installed": ", ".join(missing)} if missing else {}))


def _cold() -> float:
    """Milliseconds from nothing to the first answer."""
    began = time.perf_counter()
    with Sandbox(1) as pool:
        assert pool.run(Program("python", "print(1)"), [Test(stdin="", expected="1")], LIMITS).accepted
        return (time.perf_counter() - began) * 1e3


def _times(one: Callable[[], None], seconds: float) -> list[float]:
    """Milliseconds of each call within a time; at least 3."""
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times) < 3:
        began = time.perf_counter()
        one()
        times.append((time.perf_counter() - began) * 1e3)
    return times


def _percentiles(name: str, times: list[float]) -> dict[str, Figure]:
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {
        f"{name} p50": Figure(ordered[len(ordered) // 2], "ms", ordered[0], ordered[-1]),
        f"{name} p99": Figure(p99, "ms", ordered[0], ordered[-1]),
    }


def _clients(pool: Sandbox) -> dict[str, Figure]:
    """Latency and rate of warm Python under 1, 8 and 64 clients that ask again as soon as they are answered."""
    figures: dict[str, Figure] = {}
    program, tests = Program("python", ONE["python"]), [Test(stdin="", expected="1")]
    for clients in CLIENTS:
        times: list[list[float]] = [[] for _ in range(clients)]
        began = time.perf_counter()

        def work(own: list[float]) -> None:
            def one() -> None:
                assert pool.run(program, tests, LIMITS).accepted

            own += _times(one, SECONDS)

        threads = [threading.Thread(target=work, args=(own,)) for own in times]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        every = [value for own in times for value in own]
        figures |= _percentiles(f"warm python, {clients} clients", every)
        rate = len(every) / seconds
        figures[f"warm python, {clients} clients, rate"] = Figure.of([rate], "programs/s")
        per_core = rate / min(clients, pool.workers)
        figures[f"warm python, {clients} clients, rate per core"] = Figure.of([per_core], "programs/s/core")
    return figures


def _processor(pool: Sandbox, programs: int = 200) -> float:
    """Milliseconds of processor for one program, host and sandbox together: what a rate per core comes down to."""

    def inside() -> float:
        times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        return sum(t.user + t.system + t.children_user + t.children_system for t in times)

    program, tests = Program("python", ONE["python"]), [Test(stdin="", expected="1")]
    before, host = inside(), time.process_time()
    for _ in range(programs):
        pool.run(program, tests, LIMITS)
    host = time.process_time() - host
    time.sleep(0.2)  # the last program ends and is counted
    return 1e3 * (inside() - before + host) / programs


def _language(pool: Sandbox, language: str) -> dict[str, Figure]:
    """One program of a language: in the sandbox, by subprocess.run, and in a bubblewrap of its own, in turns."""
    program, tests = Program(language, ONE[language]), [Test(stdin="", expected="1")]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        plain = _built(language, Path(name))
        wrapped = _wrapped(plain, Path(name))

        def inside() -> None:
            result = pool.run(program, tests, LIMITS)
            assert result.accepted, result

        def call(arguments: list[str]) -> None:
            done = subprocess.run(arguments, capture_output=True, cwd=name, timeout=60)
            assert done.stdout.strip() == b"1", done

        inside()
        times: dict[str, list[float]] = {"sandbox": [], "subprocess": [], "bubblewrap": []}
        for _ in range(3):
            times["sandbox"] += _times(inside, SECONDS / 6)
            times["subprocess"] += _times(lambda: call(plain), SECONDS / 6)
            times["bubblewrap"] += _times(lambda: call(wrapped), SECONDS / 6)
    figures = {f"{language}, {way}": Figure.of(values, "ms") for way, values in times.items()}
    cost = figures[f"{language}, sandbox"].low - figures[f"{language}, subprocess"].low
    figures[f"{language}, isolation costs at least"] = Figure.of([cost], "ms")
    per_core = 1e3 / figures[f"{language}, sandbox"].value
    figures[f"{language}, rate per core"] = Figure.of([per_core], "programs/s/core")
    return figures


def _built(language: str, place: Path) -> list[str]:
    """The command that runs the program outside the sandbox, built with the same compiler."""
    row = find_language(language)
    assert row is not None
    (place / row.source).write_text(ONE[language])
    for helper, text in (row.helpers(ONE[language]) if row.helpers else {}).items():
        (place / helper).write_text(text)
    if row.compile:
        arguments = command(row.compile, 1 << 30)
        environment = {**os.environ, **row.environment, "GOCACHE": str(place / "go")}
        subprocess.run(arguments, cwd=place, check=True, capture_output=True, timeout=300, env=environment)
    if not row.run:
        return [str(interpreter()), "-I", "-S", str(place / row.source)]
    return [part.replace("/box", str(place)) for part in command(row.run, LIMITS.memory_bytes)]


def _wrapped(arguments: list[str], place: Path) -> list[str]:
    prefix = str(Path(sys.base_prefix))
    wall = [find_bubblewrap(), "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    for root in ("/bin", "/lib", "/lib64"):
        wall += ["--symlink", os.readlink(root), root] if os.path.islink(root) else ["--ro-bind", root, root]
    wall += ["--ro-bind", prefix, prefix, "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
    return [*wall, "--tmpfs", "/tmp", "--ro-bind", str(place), str(place), "--chdir", str(place), "--", *arguments]


def soak(seconds: float) -> tuple[dict[str, float], int]:
    """(what is left over after programs of every kind ran for a time and the pool closed, how many ran).

    The machine's own noise is not counted: processes are those below this one, groups those of this process.
    """
    kinds = [
        (Program("python", "print(1)"), [Test(stdin="", expected="1")], "accepted"),
        (Program("python", "def f(x): return x"), [Test(call="f(1)", expected="2")], "wrong-answer"),
        (Program("python", "while True: pass"), [Test(stdin="")], "time-limit"),
        (Program("python", "x=[]\nwhile True: x.append(bytearray(1<<24))"), [Test(stdin="")], "memory-limit"),
        (Program("python", "import os\nif os.fork()==0:\n while True: pass"), [Test(stdin="")], "accepted"),
        (Program("python", "for i in range(99): open(f'/tmp/{i}','w').write('x'*9999)"), [Test(stdin="")], "accepted"),
        (Program("python", "def f(x): return x"), [Test(unit="from solution import f\nassert f(1) == 1")], "accepted"),
    ]  # fmt: skip
    this = psutil.Process()
    before = _counts(this)
    done, wrong = [0] * 8, []
    with Sandbox(cores(), worker_memory_bytes=1 << 30) as pool:
        pool.warm()
        ends = time.perf_counter() + seconds

        def work(client: int) -> None:
            while time.perf_counter() < ends:
                program, tests, verdict = kinds[(done[client] + client) % len(kinds)]
                result = pool.run(program, tests, SHORT)
                if result.verdict != verdict:
                    wrong.append((program.source, result.verdict, result.detail))
                done[client] += 1

        threads = [threading.Thread(target=work, args=(client,)) for client in range(len(done))]
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2)
        half = this.memory_info().rss
        for thread in threads:
            thread.join()
        grown = this.memory_info().rss - half
    after = _counts(this)
    left = {name: float(max(0, after[name] - before[name])) for name in after}
    left["MB grown in the second half"] = round(max(0, grown) / 1e6, 1)
    left["wrong verdicts"] = float(len(wrong))
    if wrong:
        print(f"soak: {wrong[:3]}", file=sys.stderr)
    return left, sum(done)


def _counts(this: psutil.Process) -> dict[str, int]:
    groups = len(list(Path("/sys/fs/cgroup").glob(f"*/ringflow-sandbox-{this.pid}-*")))
    return {
        "processes": len(this.children(recursive=True)),
        "descriptors": this.num_fds(),
        "groups": groups + len(list(leftover_groups())),
        "files": len(list(Path(tempfile.gettempdir()).glob("ringflow-sandbox-*"))),
    }
