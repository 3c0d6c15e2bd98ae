"""Directories of a program: a private /tmp for each test, /box for what it was built from, and files brought back."""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat

from inside.confine import check, libc

NOSUID_NODEV, DETACH = 6, 2


def mount_tmp(where, size):
    options = f"size={size},nr_inodes=16384,mode=1777".encode()
    check(libc.mount(b"tmpfs", where, b"tmpfs", NOSUID_NODEV, options), f"mount {where.decode()}")


def empty(where):
    with os.scandir(where) as entries:
        return next(entries, None) is None


def renewed(directory):
    """Empties a directory of the host's, where nothing can be mounted."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)


def write_files(directory, files):
    for name, data in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o777)  # the program, another user, may change what is its own
    for place, _, _ in os.walk(directory) if files else ():
        if place != directory:
            os.chmod(place, 0o777)


def collect(directory, patterns, largest):
    """Regular files below the directory whose relative names match, as {name: bytes}; no links are followed."""
    found, room = {}, largest
    for place, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            relative = os.path.relpath(path, directory)
            if not any(fnmatch.fnmatchcase(relative, pattern) for pattern in patterns):
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            with open(fd, "rb") as file:
                if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size <= room:
                    found[relative] = file.read(room)
                    room -= len(found[relative])
    return found
