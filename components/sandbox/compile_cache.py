"""What compilers made, kept by what they were given: a program that is tested again is not compiled again.

The key is a digest of the language's row, the compiler's version, the source and the files, and the bytes come from the
supervisor, which foreign code cannot write to: a hostile compilation can spoil its own entry and no other. Equal
programs that arrive together are compiled once. A compilation that ran out of time or memory is not kept: a
busy machine may be why.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from components.sandbox.languages import Language, language_version
from components.sandbox.types import Program


@dataclass(frozen=True)
class Compiled:
    """outputs: name -> bytes. error: the compiler's message; the program did not compile then. seconds: it took."""

    outputs: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    lasting: bool = True

    @property
    def size(self) -> int:
        return len(self.error) + sum(map(len, self.outputs.values())) + 512


class CompileCache:
    """At most `capacity` bytes; what was used longest ago goes first. 0 keeps nothing."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._size = capacity, 0
        self._known: OrderedDict[str, Compiled] = OrderedDict()
        self._running: dict[str, Future[Compiled]] = {}
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, language: Language, program: Program, compile_: Callable[[], Compiled]) -> tuple[Compiled, bool]:
        """(what the compiler made, whether it was known). Raises what `compile_` raises."""
        key = _key(language, program)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                self.hits += 1
                return known, True
            future = self._running.get(key)
            mine = future is None
            if mine:
                future = self._running[key] = Future()
                self.misses += 1
        if not mine:
            return future.result(), True
        try:
            made = compile_()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            future.set_exception(error)
            future.exception()
            raise
        with self._lock:
            del self._running[key]
            if made.lasting and made.size <= self._capacity:
                self._known[key] = made
                self._size += made.size
                while self._size > self._capacity:
                    self._size -= self._known.popitem(last=False)[1].size
        future.set_result(made)
        return made, False


def _key(language: Language, program: Program) -> str:
    digest = hashlib.sha256()
    parts = [language.name, json.dumps([language.compile, dict(language.environment)]), language_version(language)]
    parts += [program.source]
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    for name, content in sorted(program.files.items()):
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        for part in (name.encode("utf-8", "surrogatepass"), data):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
