"""What any layout can say about one record, and the two ways of not becoming one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from components.data.schema import Message

SHOWN_CHARACTERS = 400


class Malformed(ValueError):
    """One record does not fit: `field` names where, the message says why. The record is quarantined."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(reason)


class LeftOut(Exception):
    """A well-formed record that is not wanted: a rule of the recipe or of its layout says so. Counted by reason."""


@dataclass(frozen=True)
class Row:
    """Absent parts are None. changes: what the parser did to the original, in order, in words."""

    prompt: tuple[Message, ...] = ()
    response: str | None = None
    answer: str | None = None
    solution: str | None = None
    text: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    tests: dict[str, Any] | None = None
    kind: str = ""
    changes: tuple[str, ...] = ()


def shown(row: Any) -> str:
    """A record, shortened for a message."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"
