"""Files of an artifact that go to the store as soon as they are there, from the host that has them.

What learners hold is on many hosts, and no host may have the disk for all of it. So a stage that has such files lets
every rank send its own into the attempt's folder of the store (components.artifacts.folder) and adds what they report;
its output directory is for what the driver writes itself, and both together are published as one artifact.

What was sent before a resume point belongs to the point: a stage that goes on from it has exactly these files, also
those that lie in the folder of an attempt that ended. Publishing copies them inside the storage. Nothing that a point
lists is written again by whoever saved it: later files have other names, and going back is a new point with the lease
still held.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.artifacts.digest import bytes_sha256
from components.artifacts.folder import Folder, Sent, join
from components.artifacts.manifest import FileEntry
from components.artifacts.objects import PART_BYTES, Objects
from components.artifacts.stored import Stored
from components.failures import BadInput, IntegrityError

TRANSFERS = 8
LISTS = "sent"


@dataclass(frozen=True)
class _Held:
    """A file of the artifact. attempt: whose folder it lies in."""

    sent: Sent
    attempt: str


class Outbox:
    """Of one attempt.

    Args:
        attempt: its key in the storage. files: the folder below it that the artifact's files lie in.
    """

    def __init__(self, objects: Objects, attempt: str, files: str = "files") -> None:
        self.attempt = attempt
        self._objects, self._files = objects, files
        self._held: dict[str, _Held] = {}
        self._adopted: set[str] = set()
        self._list: dict[str, Any] | None = None

    def place(self, folder: str = "") -> Folder:
        """Where ranks may send files of the artifact's folder."""
        return Folder.of(self._objects, join(self._key(self.attempt), folder))

    def add(self, folder: str, sent: Iterable[Sent]) -> None:
        """Makes what was sent to `place(folder)` part of the artifact; a file of the same path is no part any more."""
        for each in sent:
            below = each.below(folder)
            self._held[below.file.path] = _Held(below, self.attempt)
        self._list = None

    def send(self, path: str, data: bytes) -> None:
        """A small file, from here."""
        self.add("", [self.place().send(path, [data])])

    def read(self, path: str) -> bytes:
        """A small file that was sent, compared with its record."""
        held = self._held.get(path)
        if held is None:
            raise BadInput("nothing of this name was sent", where=f"{self.place()}/{path}")
        return Folder.of(self._objects, self._key(held.attempt), [held.sent.file]).read(path)

    def copy(self, folder: str, target: str, without: Collection[str] = ()) -> None:
        """Copies a folder that was sent, inside the storage.

        without: names in it that stay behind. Raises BadInput when there is no such folder."""
        found = {path: held for path, held in self._held.items() if path.startswith(f"{folder}/")}
        if not found:
            raise BadInput("nothing was sent into this folder", where=str(self.place(folder)))
        names = {path: path[len(folder) + 1 :] for path in found}
        chosen = {path: join(target, name) for path, name in names.items() if name not in without}
        self._copy((found[path], to) for path, to in chosen.items())
        for path, to in chosen.items():
            sent = found[path].sent
            self._held[to] = _Held(Sent(sent.file.model_copy(update={"path": to}), sent.chunks), self.attempt)
        self._list = None

    def take(self, stored: Stored, target: str, without: Collection[str] = ()) -> None:
        """Copies a folder of another artifact; inside the storage, if both lie in the same one.

        Raises IntegrityError: a file is not what its record says (of what is copied inside, its readers find that)."""

        def take(each: Sent) -> Sent:
            path, place = stored.path(each.file.path), self.place(target)
            if stored.place.url == self._objects.url:
                self._objects.copy(f"{stored.place.key}/{path}", f"{place.key}/{each.file.path}")
                return each
            size, source = each.file.size, stored.place
            starts = range(0, size, PART_BYTES)
            parts = (source.read_part(path, start, min(PART_BYTES, size - start)) for start in starts)
            sent = place.send(each.file.path, parts)
            if sent.file != each.file:
                raise IntegrityError(f"{stored}/{each.file.path} has sha256 {sent.file.sha256}, not {each.file.sha256}")
            return sent

        chosen = [each for each in stored.files() if each.file.path not in without]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            self.add(target, pool.map(take, chosen))

    # ---- resume points

    def state(self) -> Mapping[str, Any]:
        """For a resume point: names a list of everything sent so far, which is in the store; empty for nothing."""
        if not self._held:
            return {}
        if self._list is None:
            files = [
                {"file": held.sent.file.model_dump(), "chunks": held.sent.chunks, "attempt": held.attempt}
                for held in self._held.values()
            ]
            data = json.dumps(files, separators=(",", ":")).encode()
            entry = self._lists_of(self.attempt).send(f"{bytes_sha256(data)[:16]}.json", [data]).file
            self._list = {"attempt": self.attempt, "list": entry.model_dump()}
        return self._list

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to what had been sent when `state` was taken, by this attempt or an earlier one.

        Raises IntegrityError, and changes nothing: the list or a file is not there any more."""
        held: dict[str, _Held] = {}
        if state:
            entry = FileEntry.model_validate(state["list"])
            for each in json.loads(self._lists_of(state["attempt"], [entry]).read(entry.path)):
                file = FileEntry.model_validate(each["file"])
                held[file.path] = _Held(Sent(file, tuple(each["chunks"])), each["attempt"])
        for attempt in {each.attempt for each in held.values()}:
            there = self._objects.files(self._key(attempt))
            for path, each in held.items():
                if each.attempt == attempt and there.get(path) != each.sent.file.size:
                    size = there.get(path, "no")
                    raise IntegrityError(
                        f"{self._key(attempt)}/{path} has {size} bytes, recorded {each.sent.file.size}"
                    )
        self._held, self._list = held, None

    # ---- publishing

    def settle(self) -> tuple[Sent, ...]:
        """Brings everything into this attempt's own folder, and nothing else; what belongs to the artifact."""
        own = self._key(self.attempt)
        for path in self._objects.files(own).keys() - self._held.keys():
            self._objects.remove(f"{own}/{path}")  # sent, and then gone back before it
        others = {path: held for path, held in self._held.items() if held.attempt != self.attempt}
        self._adopted |= {held.attempt for held in others.values()}
        self._copy((held, path) for path, held in others.items())
        for path, held in others.items():
            self._held[path] = _Held(held.sent, self.attempt)
        return tuple(held.sent for _, held in sorted(self._held.items()))

    def clear(self) -> None:
        """Removes what only resume points need: lists, and attempts that ended and whose files were copied. For when
        the artifact is committed."""
        for attempt in self._adopted:
            self._objects.remove(attempt)
        self._objects.remove(join(self.attempt, LISTS))

    def _copy(self, files: Iterable[tuple[_Held, str]]) -> None:
        own = self._key(self.attempt)

        def copy(each: tuple[_Held, str]) -> None:
            held, target = each
            self._objects.copy(f"{self._key(held.attempt)}/{held.sent.file.path}", f"{own}/{target}")

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(copy, files))

    def _key(self, attempt: str) -> str:
        return join(attempt, self._files)

    def _lists_of(self, attempt: str, files: Iterable[FileEntry] = ()) -> Folder:
        return Folder.of(self._objects, join(attempt, LISTS), files)
