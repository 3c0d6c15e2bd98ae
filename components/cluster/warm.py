"""Groups of workers kept alive between stages of one process: starting an engine costs more than a short stage.

A key stands for everything that decides whether a running group fits (class, model shape, dtype, counts), never for the
weights it holds: whoever takes a group loads its own. `borrow` gives a group to one user at a time; a stage that needs
several takes them in alphabetical order of their keys' first word, so that two stages cannot wait for each other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

from components.failures import DeadlineExceeded


class Group(Protocol):
    def alive(self) -> bool: ...

    def close(self) -> None: ...


G = TypeVar("G", bound=Group)


class _Slot:
    def __init__(self) -> None:
        self.building, self.use = threading.Lock(), threading.Lock()
        self.group: Group | None = None


_SLOTS: dict[Hashable, _Slot] = {}
_SLOTS_LOCK = threading.Lock()


def warm(key: Hashable, factory: Callable[[], G]) -> G:
    """The live group of `key`, made by `factory` when there is none or the old one is dead."""
    slot = _slot(key)
    with slot.building:
        if slot.group is not None and not slot.group.alive():
            slot.group.close()
            slot.group = None
        if slot.group is None:
            slot.group = factory()
        return cast(G, slot.group)


@contextmanager
def borrow(key: Hashable, factory: Callable[[], G], deadline_s: float) -> Iterator[G]:
    """`warm`, exclusively: nobody else gets this group until the block ends.

    Raises:
        DeadlineExceeded: another stage of this process kept it longer than `deadline_s`.
    """
    slot = _slot(key)
    if not slot.use.acquire(timeout=deadline_s):
        raise DeadlineExceeded(f"the workers {key!r} were in use by another stage for {deadline_s:g} s")
    try:
        yield warm(key, factory)
    finally:
        slot.use.release()


def prewarm(key: Hashable, factory: Callable[[], Group]) -> threading.Thread:
    """Starts building the group in the background; a later `warm` or `borrow` of the key waits for it.

    A factory that fails is tried again, in the foreground and with its error shown, by whoever needs the group.
    """

    def build() -> None:
        try:
            warm(key, factory)
        except Exception as error:  # shown by the next `warm`, which builds again
            logging.getLogger(__name__).warning("prewarming %r failed, will be tried when needed: %s", key, error)

    thread = threading.Thread(target=build, name=f"prewarm {key!r}", daemon=True)
    thread.start()
    return thread


def release(key: Hashable) -> None:
    """Ends the group of `key`, if there is one, to make room."""
    slot = _slot(key)
    with slot.building:
        if slot.group is not None:
            slot.group.close()
            slot.group = None


def release_all() -> None:
    """Ends every warm group; called when the process is done with Ray."""
    with _SLOTS_LOCK:
        keys = list(_SLOTS)
    for key in keys:
        release(key)


def _slot(key: Hashable) -> _Slot:
    with _SLOTS_LOCK:
        return _SLOTS.setdefault(key, _Slot())
