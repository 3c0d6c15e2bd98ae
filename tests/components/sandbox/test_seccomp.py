# ruff: noqa: E501
"""The filter, read by a small interpreter of BPF: what it answers for chosen calls."""

from __future__ import annotations

import struct

import pytest

from components.sandbox.seccomp import filter_bytes

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def answer(machine: str, number: int, first: int = 0, arch: int | None = None, second: int = 0) -> int:
    code = filter_bytes(machine)
    arch = arch if arch is not None else {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    data = struct.pack("=iIQQQ", number, arch, 0, first, second)
    position, value = 0, 0
    while True:
        operation, true, false, k = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif operation == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation]
            position += true if holds else false


@pytest.mark.parametrize(
    ("number", "first", "expected"),
    [
        (0, 0, ALLOW), (1, 0, ALLOW), (59, 0, ALLOW), (101, 0, KILL), (165, 0, KILL), (272, 0, KILL), (321, 0, KILL),
        (250, 0, ERRNO | 1), (319, 0, ERRNO | 38), (462, 0, ALLOW), (463, 0, ERRNO | 38), (16, 0, ALLOW), (435, 0, ERRNO | 38), (425, 0, ERRNO | 38), (56, 0x3D0F00, ALLOW), (56, 17, ALLOW),
        (56, 0x10000000 | 17, KILL), (56, 0x20000000, KILL), (41, 1, ALLOW), (41, 2, ALLOW), (41, 10, ALLOW),
        (41, 16, ERRNO | 97), (41, 40, ERRNO | 97), (41, 38, ERRNO | 97), (0x40000000 + 1, 0, KILL),
    ],
)  # fmt: skip
def test_answers_on_x86_64(number, first, expected):
    assert answer("x86_64", number, first) == expected


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_nothing_is_typed_into_a_terminal(machine):
    ioctl = {"x86_64": 16, "aarch64": 29}[machine]
    assert [answer(machine, ioctl, 0, None, request) for request in (0x5412, 0x541C, 0x5413)] == [ERRNO | 1] * 2 + [
        ALLOW
    ]


@pytest.mark.parametrize(
    ("machine", "calls", "priorities"),
    [("x86_64", (302, 142, 144, 203, 314), {141: 2, 251: 3}), ("aarch64", (261, 118, 119, 122, 274), {140: 2, 30: 3})],
)
def test_process_1_is_left_alone_and_own_processes_are_not(machine, calls, priorities):
    for number in calls:
        assert [answer(machine, number, process) for process in (0, 1, 2, 77)] == [ALLOW, ERRNO | 1, ALLOW, ALLOW]
    for number, of_user in priorities.items():
        kinds = [answer(machine, number, kind, None, target) for kind, target in ((0, 0), (0, 1), (of_user, 0), (1, 9))]
        assert kinds == [ALLOW, ERRNO | 1, ERRNO | 1, ALLOW]


def test_another_architecture_is_killed():
    assert answer("x86_64", 1, arch=0x40000003) == KILL


@pytest.mark.parametrize(("number", "first", "expected"), [(64, 0, ALLOW), (117, 0, KILL), (40, 0, KILL), (220, 17, ALLOW),
                                                           (220, 0x10000000, KILL), (198, 1, ALLOW), (198, 40, ERRNO | 97)])  # fmt: skip
def test_answers_on_aarch64(number, first, expected):
    assert answer("aarch64", number, first) == expected


def test_a_machine_without_a_table_has_no_filter():
    assert filter_bytes("sparc") is None
