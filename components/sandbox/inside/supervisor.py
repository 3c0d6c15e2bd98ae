"""Runs what the host asks for, test by test, and keeps every bound. No foreign code runs here, nor in a fork of this.

It lives as long as its worker, outside the programs' pid namespace. A request is a frame that says how to compile or
run, then one frame for each step (one test, or calls that share a process), each answered before the next is sent: a
program never shares a machine with tests that are not its turn. The directories are emptied and the next process is
forked after the answer, when nobody waits for it.

Process 1 (init.py) is kept only if all that ran under it ended in order and left nothing; otherwise its namespace is
given up for a new one. What protects it is its user, and the filter; without either every program has a new one.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from signal import SIGKILL

from inside.confine import SET_DUMPABLE, bound, check, libc
from inside.frames import Reader, pack
from inside.init import END, ENDED
from inside.places import DETACH, NOSUID_NODEV, collect, empty, mount_tmp, renewed, write_files
from inside.process import Process

REMOUNT, RDONLY = 32, 1
STARVED = 3  # a starved program gets at most this many times its real time on top, once where it has children
QUIET_MS = 4  # most programs end sooner: until then nobody looks at what they print
TMP_BYTES = 64 << 20


class Supervisor:
    """The whole life of a supervisor.

    Args:
        sock: descriptor to the host. factory: to the zygote, which sends a connection to a new process 1 for each byte.
        proc: a descriptor of the worker's own /proc, which the programs' own hides.
    """

    def __init__(self, settings, sock, factory, proc):
        self.settings, self.proc = settings, proc
        self.sock, self.factory = socket.socket(fileno=sock), socket.socket(fileno=factory)
        self.tmp, self.box = settings.tmp, settings.box
        self.control, self.spare, self.tmp_bytes, self.boxed = None, None, TMP_BYTES, False
        self.worn, self.compiling, self.files = False, False, {}
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)

    def serve(self):
        """Answers until the host is gone."""
        gc.enable()
        if self.settings.isolated:
            mount_tmp(b"/tmp", self.tmp_bytes)
        else:
            self.empty_tmp(self.tmp_bytes)
        self.renew()
        frames = Reader(self.sock.recv)
        while True:
            try:
                message, blobs = frames.frame()
            except EOFError:
                return
            if message["what"] == "open":
                self.open(message, blobs)
            else:
                facts, out, kept = self.step(message, blobs)
                self.sock.sendall(pack({"facts": facts, "kept": list(kept)}, [*out, *kept.values()]))
                self.clear()

    # ---- between programs --------------------------------------------------------------------------------------------

    def renew(self):
        """A new process 1 in a new namespace. Its socket's end was the old one's."""
        if self.control is not None:
            self.control.close()
            if self.settings.isolated:
                check(libc.umount2(b"/proc", DETACH), "unmount /proc")
        self.factory.sendall(b"n")
        data, fds, _, _ = socket.recv_fds(self.factory, 1, 1)
        if not data:
            raise EOFError("the zygote has ended")
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds[0])
        self.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.worn = False
        self.spare = Process(self.control, self.proc)
        self.quiet = select.poll()
        self.quiet.register(self.control, select.POLLIN)
        self.quiet.register(self.sock, 0)  # only hang-up: the host is gone

    def clear(self):
        """Makes room for the next program: empty directories, and a process that has never heard of this one."""
        self.empty_tmp(self.tmp_bytes)
        if self.worn or not self.settings.kept:
            self.renew()
        else:
            self.spare = Process(self.control, self.proc)

    def empty_tmp(self, size):
        if not self.settings.isolated:
            renewed(self.tmp)
        elif size != self.tmp_bytes or not empty("/tmp"):
            check(libc.umount2(b"/tmp", DETACH), "unmount /tmp")
            mount_tmp(b"/tmp", size)
            self.tmp_bytes = size

    # ---- requests ----------------------------------------------------------------------------------------------------

    def open(self, request, blobs):
        """Lays out what a program was built from, or is to be built from; steps follow."""
        files = dict(zip(request["names"], blobs, strict=True))
        self.files = {name: data for name, data in files.items() if not name.startswith("\0")}
        self.compiling = request["compile"]
        inside = {name[1:]: data for name, data in files.items() if name.startswith("\0")}
        if self.boxed and self.settings.isolated:
            check(libc.umount2(b"/box", DETACH), "unmount /box")
        self.boxed = bool(inside)
        if not inside:
            return
        if self.settings.isolated:
            mount_tmp(b"/box", request["box_bytes"])
        else:
            renewed(self.box)
        write_files(self.box, inside)
        if self.settings.isolated and not request["compile"]:
            check(libc.mount(None, b"/box", None, REMOUNT | RDONLY | NOSUID_NODEV, None), "make /box read-only")

    def step(self, step, blobs):
        """One test: (facts of each process, its four blobs each, files fetched)."""
        stdin, told, *examiner_told = blobs
        if not self.compiling:
            if step["limits"]["tmp_bytes"] != self.tmp_bytes:
                self.empty_tmp(step["limits"]["tmp_bytes"])
            write_files(self.tmp, self.files)
        if examiner_told:
            facts, out = self.examine(step, told, *examiner_told)
        else:
            facts, out = self.run(step, told, stdin)
        where = self.box if self.compiling else self.tmp
        return facts, out, collect(where, step["fetch"], step["fetch_bytes"]) if step["fetch"] else {}

    def run(self, step, told, stdin):
        """Runs one process to its end and leaves none behind."""
        process = self.spare
        source = os.memfd_create("stdin") if stdin else os.open("/dev/null", os.O_RDONLY)
        view = memoryview(stdin)
        while view:
            view = view[os.write(source, view) :]
        if stdin:
            os.lseek(source, 0, os.SEEK_SET)
        started = time.monotonic()
        self.bound(process, step)
        process.begin(step["limits"], step["turns"], told, [source])
        os.close(source)
        return self.finish(process, process, step, started)

    def examine(self, step, told, examiner_told):
        """The program and its examiner, which has been forked before either hears anything."""
        examined = self.spare
        examiner = Process(self.control, self.proc)
        ours, theirs = socket.socketpair()
        empty_input = os.open("/dev/null", os.O_RDONLY)
        started = time.monotonic()
        with ours, theirs:
            for process, what, end in ((examiner, examiner_told, ours), (examined, told, theirs)):
                self.bound(process, step)
                process.begin(step["limits"], step["turns"], what, [empty_input, end.fileno()])
        os.close(empty_input)
        return self.finish(examiner, examined, step, started)

    def bound(self, process, step):
        cpu_s = step["limits"]["cpu_s"] * step["turns"] + 1
        bound(self.settings, process.pid, step["limits"], step["address_space"], cpu_s)

    def finish(self, main, timed, step, started):
        """Watches to the end, and puts the facts together."""
        processes = [main] if main is timed else [timed, main]
        self.control.sendall(END)
        broken, marks = self.watch(main, timed, step["limits"], step["turns"], started)
        seconds = time.monotonic() - started
        told = bytearray()
        while len(told) <= ENDED.size * len(processes):
            part = self.control.recv(4096)
            if not part:
                raise EOFError("process 1 of the programs has ended")
            told += part
        for process in processes:
            if process.drain():
                broken = broken or "output"
        lines = 0 if broken else main.kept["report"].count(b"\n")
        marks += [started + seconds] * (min(lines, step["turns"]) - len(marks))
        ends = list(ENDED.iter_unpack(told[:-1]))
        # An examined program that still runs when its examiner has finished is ended by process 1.
        fell = [p for p, (status, *_) in zip(processes, ends, strict=True) if status & 0x7F not in (0, SIGKILL)]
        self.worn = self.worn or bool(broken or told[-1] or fell or ends[-1][0] & 0x7F)
        facts, out = [], []
        for process, (status, cpu, peak) in zip(processes, ends, strict=True):
            facts.append({"broken": broken, "status": status, "seconds": seconds, "cpu": cpu, "memory": peak * 1024,
                          "marks": [mark - started for mark in marks]})  # fmt: skip
            out += [*process.kept.values(), process.failure()]
        return facts, out

    def watch(self, main, timed, limits, turns, started):
        """Collects from `main` and `timed` until process 1 says that all is over: (what broke, end of each turn).

        A turn ends with a line on main's report; each has wall_s of real time and cpu_s of `timed`'s processor time.
        """
        marks, spent, broken = [], 0.0, None
        if turns == 1 and self.over(self.quiet.poll(QUIET_MS), main):
            return None, marks
        owner = {fd: process for process in {main, timed} for fd in process.names}
        poll = select.poll()
        for fd in (*owner, self.control.fileno()):
            poll.register(fd, select.POLLIN)
        poll.register(self.sock, 0)
        while True:
            now = time.monotonic()
            cpu_left = limits["cpu_s"] - (timed.cpu() - spent)
            left = (marks[-1] if marks else started) + limits["wall_s"] - now
            if left <= 0:
                left += self.starved(timed.pid, limits["wall_s"])
            if cpu_left <= 0 or left <= 0:
                broken = "cpu" if cpu_left <= 0 else "wall"
            events = [] if broken else poll.poll(min(left, cpu_left) * 1000 + 1)
            for fd, event in events:
                if fd in owner and event and owner[fd].take(fd) is None:
                    broken = broken or "output"
                if fd in owner and fd not in owner[fd].names:
                    poll.unregister(fd)
                    del owner[fd]
            while len(marks) < min(main.kept["report"].count(b"\n"), turns):
                marks.append(time.monotonic())
                spent = timed.cpu()
            if self.over(events, main):
                return broken, marks
            if broken:
                main.kill()
                return broken, marks

    def over(self, events, main):
        """Whether process 1 has something to say: all has ended. Raises EOFError where the host is gone, after that."""
        ready = [fd for fd, _ in events]
        if self.sock.fileno() in ready:
            main.kill()
            self.control.recv(1)
            raise EOFError("the host is gone")
        return self.control.fileno() in ready

    def starved(self, pid, wall_s):
        """Seconds on top: the process was ready and had no processor. A busy machine is not the program's fault, but
        children of its own may be what keeps it busy."""
        times = self.read(f"{pid}/schedstat").split()
        waited = int(times[1]) / 1e9 if len(times) > 1 else 0.0
        return min(waited, wall_s * (1 if self.read(f"{pid}/task/{pid}/children") else STARVED))

    def read(self, path):
        try:
            with open(os.open(path, os.O_RDONLY, dir_fd=self.proc)) as file:
                return file.read()
        except OSError:
            return ""
