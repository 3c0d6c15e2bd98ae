"""The process that runs a program: a Python script, Python calls, a Python module under examination, any other file."""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import json
import os
import signal
import sys
import threading
import traceback

from inside.confine import confine
from inside.peer import Peer

VALUE_BYTES = 1 << 20
REPORT, SETUP, PEER = 3, 4, 5


def reset_signals():
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(code):
    """What the interpreter does at exit, without tearing down the warm modules."""
    import atexit

    try:
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
        traceback.print_exception(kind, error, trace, limit=20)
    except BaseException:
        os.write(2, kind.__name__.encode())


def open_streams():
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def load(source, name, arguments, directory):
    """Runs the program as the module `name`; its namespace. Ends the process where it does not compile or raises."""
    open_streams()
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


def become(settings, limits, *, fds, directory, address_space, cpu_s, dumpable=True):
    """Turns this forked process into one that may run foreign code. fds: stdin, out, err, report, setup, peer or None.

    Descriptor SETUP tells the supervisor that the preparation failed; it is closed before foreign code runs.
    """
    os.setsid()
    moved = [None if fd is None else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in fds]
    for target, fd in enumerate(moved):
        if fd is not None:
            os.dup2(fd, target, inheritable=target <= 2)
    os.closerange(len([fd for fd in moved if fd is not None]), 1024)
    os.chdir(directory)
    reset_signals()
    confine(settings, limits, address_space, cpu_s, dumpable)


def run(settings, work, fds):
    """The whole life of the process after the fork; never returns."""
    try:
        become(
            settings,
            work.limits,
            fds=fds,
            directory=work.directory,
            address_space=work.address_space,
            cpu_s=work.cpu_s,
        )
        if work.argv is not None:
            os.execve(work.argv[0], [*work.argv, *work.arguments], work.environment)
        os.close(SETUP)
        os.environ.update({"HOME": work.directory, "TMPDIR": work.directory})
        gc.enable()
        source, arguments = work.source.decode("utf-8", "surrogateescape"), work.arguments
        calls, examined = work.calls, work.examined
        directory = work.directory
        del work, settings, fds
        space = load(source, "solution" if calls or examined else "__main__", arguments, directory)
        if examined:
            Peer(PEER).serve(space)
        run_calls(space, calls)
        finish(0)
    except BaseException as error:  # foreign code ends the process itself: only the preparation fails with SETUP open
        with contextlib.suppress(OSError):
            os.write(SETUP, repr(error).encode())
    finally:
        os._exit(127)
