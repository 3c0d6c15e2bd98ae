"""Takes secrets out of text before it is kept or shown: errors, logs, lineage, pages. It never raises.

A secret is the value of an environment variable named like one (AWS_SECRET_ACCESS_KEY, PREFECT_API_AUTH_STRING, any
*_TOKEN, *_PASSWORD, *_KEY ...), what a component read as a key (`remember`), or text that has the shape of one: the
password of a URL, a key that starts with `sk-`, `hf_` or `ghp_`, a bearer token, the signature of a presigned URL.
Values shorter than 8 characters are not looked for: they stand in too many words.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from typing import Any

MARK = "***"
SHORTEST = 8
NAMES = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|_KEY|AUTH_STRING|CREDENTIALS?)$", re.IGNORECASE)
SHAPES = (
    (re.compile(r"(?P<before>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/:@\"'<>]*:[^\s/@\"'<>]+(?=@)"), rf"\g<before>{MARK}"),
    (re.compile(r"(?P<before>\b)(?:sk|rk)-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"), rf"\g<before>{MARK}"),
    (re.compile(r"(?P<before>\b)(?:hf|ghp|gho|ghs)_[A-Za-z0-9]{20,}"), rf"\g<before>{MARK}"),
    (re.compile(r"(?P<before>\b[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"), rf"\g<before>{MARK}"),
    (re.compile(r"(?P<before>X-Amz-(?:Signature|Security-Token)=)[^&\s\"'<>]+"), rf"\g<before>{MARK}"),
)

_remembered: set[str] = set()


def remember(value: str) -> None:
    """From now on `value` is taken out too; for keys whose variable has a name of the user's choice."""
    if len(value) >= SHORTEST:
        _remembered.add(value)


def secrets() -> list[str]:
    """The values that are taken out, the longest first; of `user:password` in an auth string also the password."""
    found = set(_remembered)
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= SHORTEST:
            found.add(value)
            if name.upper().endswith("AUTH_STRING"):
                found.add(value.partition(":")[2])
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def redacted(text: str) -> str:
    """The text with `***` in the place of every secret."""
    for value in secrets():
        if value in text:
            text = text.replace(value, MARK)
    for shape, instead in SHAPES:
        text = shape.sub(instead, text)
    return text


def redacted_bytes(data: bytes) -> bytes:
    """The same for text as bytes, whatever its encoding; what is no UTF-8 stays as it is."""
    return redacted(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def redact_logs() -> None:
    """Every log record of this process, also of libraries, has no secret in its text or traceback. Safe to repeat."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def made(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        _clean(record)
        return record

    made.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)


def _clean(record: logging.LogRecord) -> None:
    try:
        text = record.getMessage()
    except Exception:
        return  # arguments that do not fit: logging itself says so when the record is shown
    if (clean := redacted(text)) != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0] is not None:
        shown = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if (clean := redacted(shown)) != shown:
            record.exc_text = clean  # formatters take it instead of the exception
            record.exc_info = None
