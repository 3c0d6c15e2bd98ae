"""Process 1 of a program's namespaces: runs one request step by step and keeps every bound. No foreign code runs here.

A request is a frame that says how to compile or run, then one frame for each step (one test, or calls that share a
process), each answered before the next is sent: a program never shares a machine with tests that are not its turn.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import time

from inside.confine import SET_DUMPABLE, check, libc
from inside.frames import pack, receive
from inside.places import NOSUID_NODEV, collect, fresh_directory, mount_tmp, write_files
from inside.process import Process, Work

NEWNS, NEWPID = 0x00020000, 0x20000000
NOSUID_NODEV_NOEXEC, REMOUNT, RDONLY = 14, 32, 1
SET_CHILD_SUBREAPER = 36
STARVED = 3  # a starved program gets at most this many times its real time on top


def watch(sock, main, timed, limits, turns, started):
    """Collects from `main` and `timed` until `main` ends or a limit breaks: (what broke or None, end of each turn).

    A turn ends with a line on main's report; each has wall_s of real time and cpu_s of `timed`'s processor time.
    """
    processes = [main] if main is timed else [main, timed]
    poll = select.poll()
    owner = {fd: process for process in processes for fd in process.names}
    for fd in owner:
        poll.register(fd, select.POLLIN)
    poll.register(main.ended, select.POLLIN)
    poll.register(sock, 0)  # only hang-up: the host is gone
    marks, spent = [], 0.0
    while True:
        now = time.monotonic()
        cpu_left = limits["cpu_s"] - (timed.cpu() - spent)
        if cpu_left <= 0:
            return "cpu", marks
        left = (marks[-1] if marks else started) + limits["wall_s"] - now
        if left <= 0:
            left += min(waited_for_processor(timed.pid), STARVED * limits["wall_s"])
        if left <= 0:
            return "wall", marks
        for fd, event in poll.poll(min(left, cpu_left) * 1000 + 1):
            if fd == sock.fileno():
                os._exit(1)
            if fd == main.ended:
                return None, marks
            if fd not in owner or not event:
                continue
            if owner[fd].take(fd) is None:
                return "output", marks
            if fd not in owner[fd].names:
                poll.unregister(fd)
                del owner[fd]
            while len(marks) < min(main.kept["report"].count(b"\n"), turns):
                marks.append(time.monotonic())
                spent = timed.cpu()


def waited_for_processor(pid):
    """Seconds that the process was ready and had no processor: a busy machine is not the program's fault."""
    try:
        with open(f"/proc/{pid}/schedstat") as times:
            return int(times.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def run_process(settings, sock, work, stdin, spare):
    """Runs one process to its end and leaves none behind: (JSON, blobs) of the facts."""
    process = spare or Process(settings)
    source = os.memfd_create("stdin")
    view = memoryview(stdin)
    while view:
        view = view[os.write(source, view) :]
    os.lseek(source, 0, os.SEEK_SET)
    started = time.monotonic()
    process.begin(work, [source])
    os.close(source)
    broken, marks = watch(sock, process, process, work.limits, len(work.calls), started)
    return settle(settings, [process], broken, marks, started)


def run_examination(settings, sock, work, spare):
    """The program and its examiner. The tests come from the host when the program's process has been forked already."""
    examined = spare or Process(settings)
    ours, theirs = socket.socketpair()
    empty = os.open("/dev/null", os.O_RDONLY)
    started = time.monotonic()
    examined.begin(work, [empty, theirs.fileno()])
    theirs.close()
    tests, blobs = receive(sock)
    values = {**vars(work), **tests, "kind": "examiner", "source": blobs[0] if blobs else None}
    examination = Work(**{name: value for name, value in values.items() if name not in ("turns", "cpu_s")})
    examining = Process(settings)
    examining.begin(examination, [empty, ours.fileno()])
    ours.close()
    os.close(empty)
    broken, marks = watch(sock, examining, examined, work.limits, examination.turns, started)
    return settle(settings, [examined, examining], broken, marks, started)


def settle(settings, processes, broken, marks, started):
    """Ends what still runs and puts the facts together."""
    seconds = time.monotonic() - started
    if broken or len(processes) > 1:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.reap()
    end_all(settings.isolated)
    for process in processes:
        if process.drain():
            broken = broken or "output"
    parts = [process.facts(broken, seconds, [mark - started for mark in marks]) for process in processes]
    return [message for message, _ in parts], [blob for _, blobs in parts for blob in blobs]


def end_all(isolated):
    """Kills and reaps every other process of the namespace; without one, every descendant (we are their subreaper)."""
    while True:
        if isolated:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in children.read().split():
                    os.kill(int(pid), signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if isolated else os.WNOHANG)[0]:
                pass
            time.sleep(0.001)
        except ChildProcessError:
            return


# ---- requests --------------------------------------------------------------------------------------------------------


def serve_one(settings, sock, request, blobs, spare):
    """One request with its steps, until the host says that it was all."""
    source = request["source"].encode("latin-1")
    names = request["names"]
    files = dict(zip(names, blobs, strict=True))
    request["files"] = {name: files[name] for name in names if not name.startswith("\0")}
    base = "/" if settings.isolated else settings.directory
    request["cwd"], request["mounted"] = os.path.join(base, "tmp"), request["tmp_bytes"]
    box = os.path.join(base, "box")
    if settings.isolated:
        mount_tmp(b"/tmp", request["tmp_bytes"])
    inside = {name[1:]: files[name] for name in names if name.startswith("\0")}
    if inside:
        if settings.isolated:
            mount_tmp(b"/box", request["box_bytes"])
        else:
            shutil.rmtree(box, ignore_errors=True)
            os.makedirs(box)
        write_files(box, inside)
        request["argv"] = [part.replace("/box/", f"{box}/") for part in request["argv"] or []] or None
    if request["compile"]:
        request["cwd"] = box
    elif inside and settings.isolated:
        check(libc.mount(None, b"/box", None, REMOUNT | RDONLY | NOSUID_NODEV, None), "make /box read-only")
    request["environment"] = {**os.environ, **request["environment"]}
    for name in ("HOME", "TMPDIR"):
        request["environment"].setdefault(name, request["cwd"])
    while True:
        step, blobs = receive(sock)
        if step is None or step["end"]:
            return
        if not request["compile"]:
            fresh_directory(settings, request, step["limits"]["tmp_bytes"])
        work = Work(
            "program",
            source,
            limits=step["limits"],
            argv=request["argv"],
            arguments=step["arguments"],
            environment=request["environment"],
            address_space=request["address_space"],
            directory=request["cwd"],
            calls=step["calls"],
            examined=step["examined"],
        )
        if work.examined:
            facts, out = run_examination(settings, sock, work, spare)
        else:
            facts, out = run_process(settings, sock, work, blobs[0], spare)
        spare = None
        kept = collect(request["cwd"], step["fetch"], step["fetch_bytes"]) if step["fetch"] else {}
        sock.sendall(pack({"facts": facts, "kept": list(kept)}, [*out, *kept.values()]))


def main(settings, sock):
    """The whole life of a supervisor."""
    if settings.isolated:
        check(libc.unshare(NEWNS), "new mount namespace")
        # Processes alone: a program needs no system settings, and some kernels show more there than they should.
        check(libc.mount(b"proc", b"/proc", b"proc", NOSUID_NODEV_NOEXEC, b"subset=pid"), "mount /proc (Linux 5.8)")
    else:
        libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    spare = Process(settings)
    request, blobs = receive(sock)
    if request is not None:
        serve_one(settings, sock, request, blobs, spare)
