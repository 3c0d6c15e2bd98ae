"""The process that runs a program: a Python script, Python calls, a Python module under examination, any other file."""

from __future__ import annotations

import atexit
import builtins
import gc
import json
import os
import sys

from inside.peer import Peer

VALUE_BYTES = 1 << 20
REPORT, PEER, SETUP = 3, 5, 9  # descriptors


def finish(code):
    """What the interpreter does at exit, without tearing down the warm modules."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None and threading.active_count() > 1:
            threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = code or 1
    os._exit(code)


def exit_code(stop):
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def show_error(phase):
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    os.write(REPORT, (json.dumps({"p": phase, "e": kind.__name__}) + "\n").encode())
    try:
        sys.tracebacklimit = 20
        sys.__excepthook__(kind, error.with_traceback(trace), trace)
    except BaseException:
        os.write(2, kind.__name__.encode())


def open_streams():
    """Those of the programs, made before the fork: over descriptors of the kinds that programs have there."""
    kept = [os.dup(fd) for fd in range(3)]
    end, pipe = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    for target, fd in enumerate((null, pipe, pipe)):
        os.dup2(fd, target)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    for target, fd in enumerate(kept):
        os.dup2(fd, target)
    for fd in (*kept, end, pipe, null):
        os.close(fd)


def load(source, name, arguments, directory):
    """Runs the program as the module `name`; its namespace. Ends the process where it does not compile or raises."""
    module = type(sys)(name)
    module.__builtins__ = builtins
    sys.modules[name] = module
    sys.argv = ["main.py", *arguments]
    sys.path[:] = [directory, *sys.path]
    try:
        code = compile(source, "main.py", "exec", dont_inherit=True)
    except MemoryError:
        show_error("run")
        os._exit(1)
    except BaseException:
        show_error("compile")
        os._exit(1)
    try:
        exec(code, module.__dict__)
    except SystemExit as stop:
        if name == "__main__":
            finish(exit_code(stop))
    except BaseException:
        show_error("run")
        finish(1)
    return module.__dict__


def run_calls(space, calls):
    """Evaluates the calls; each value leaves as its repr on the report pipe, to be compared outside."""
    for call in calls:
        try:
            value = repr(eval(compile(call, "call", "eval", dont_inherit=True), space))
            line = {"v": value} if len(value) <= VALUE_BYTES else {"e": "OutputTooLarge"}
        except SystemExit:
            line = {"e": "SystemExit"}
        except BaseException as error:
            line = {"e": type(error).__name__, "m": str(error)[:500]}
        write_all(REPORT, (json.dumps(line) + "\n").encode())


def run(settings, source, argv, environment, directory, arguments, calls, examined):
    """Becomes the program; never returns.

    Args:
        source: bytes of a Python program, else `argv` is what to execute. directory: tmp or box.
        examined: whether an examiner asks for its functions.
    """
    directory = settings.box if directory == "box" else settings.tmp
    os.chdir(directory)
    if argv is not None:
        argv = [part.replace("/box/", f"{settings.box}/") for part in (*argv, *arguments)]
        os.execve(argv[0], argv, {**os.environ, "HOME": directory, "TMPDIR": directory, **environment})
    os.close(SETUP)
    gc.enable()
    del settings
    name = "solution" if calls or examined else "__main__"
    space = load(source.decode("utf-8", "surrogateescape"), name, arguments, directory)
    if examined:
        Peer(PEER).serve(space)
    run_calls(space, calls)
    finish(0)
