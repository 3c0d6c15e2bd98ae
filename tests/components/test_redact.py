"""Secrets leave every error and log record, and nothing else does."""

from __future__ import annotations

import io
import logging
import pickle

import httpx
import pytest

from components import failures
from components.redact import MARK, redact_logs, redacted, redacted_bytes, remember

SECRET = "wJalrXUtnFEMI7K7MDENG"
JUDGE = "sk-proj-Ab12Cd34Ef56Gh78Ij90"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:correct-horse-battery")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {SECRET} refused", "key *** refused"),
        ("asked as team:correct-horse-battery", "asked as ***"),
        ("the password correct-horse-battery is wrong", "the password *** is wrong"),
        ("at https://ann:pa55@host:8000/v1?x=1", "at https://***@host:8000/v1?x=1"),
        ("at postgresql+asyncpg://ringflow:p/a@db", "at postgresql+asyncpg://ringflow:p/a@db"),  # no URL has this
        ("at redis://:only-password@host/0", "at redis://***@host/0"),
        (f"Incorrect API key provided: {JUDGE}.", "Incorrect API key provided: ***."),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer ***"),
        ("https://b.s3/x?X-Amz-Signature=0a1b2c&y=1", "https://b.s3/x?X-Amz-Signature=***&y=1"),
        ("token hf_abcdefghijklmnopqrstuvwx", "token ***"),
    ],
)
def test_secrets_leave_a_text(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted_bytes(text.encode()) == shown.encode()


@pytest.mark.parametrize(
    "text",
    [
        "models:/ring-nano@released",
        "s3://ringflow/p/sft/" + "a" * 64,
        "qwen3@http://127.0.0.1:8000/v1",
        "risk-assessment-of-something-else-1",
        "disk-0123456789abcdef0123",
        "sk-learn-is-a-library-name-here",
        "AWS_SECRET_ACCESS_KEY",
        "12:30:01 at http://host:80/@x",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_bytes_that_are_no_text_stay() -> None:
    assert redacted_bytes(b"\xff\x00" + SECRET.encode()) == b"\xff\x00***"


def test_short_values_and_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "sft")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE1")
    assert redacted("sft false-and-long AKIDEXAMPLE1") == "sft false-and-long AKIDEXAMPLE1"


def test_a_key_that_was_read_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.rewards.endpoint import authorization

    monkeypatch.setenv("OUR_JUDGE", "plain-looking-value")
    assert authorization("OUR_JUDGE", "key")["Authorization"] == "Bearer plain-looking-value"
    assert redacted("refused plain-looking-value") == f"refused {MARK}"
    remember("short")
    assert redacted("short") == "short"


@pytest.mark.parametrize(
    "kind", [failures.InfrastructureError, failures.DeadlineExceeded, failures.Diverged, failures.IntegrityError]
)
def test_an_error_has_no_secret_on_either_side_of_a_process_boundary(kind: type[Exception]) -> None:
    for error in (kind(f"S3 says {SECRET}"), pickle.loads(pickle.dumps(kind(f"S3 says {SECRET}")))):
        assert str(error) == "S3 says ***"


def test_bad_input_has_none_in_any_field() -> None:
    error = pickle.loads(
        pickle.dumps(failures.BadInput(f"a {SECRET}", where=f"b {SECRET}", remedy=f"c http://u:{SECRET}@h"))
    )
    assert SECRET not in f"{error} {error.problem} {error.where} {error.remedy} {error.args}"
    assert error.remedy == "c http://***@h"


def test_log_records_of_any_library_are_clean() -> None:
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    log = logging.getLogger("some.library")
    log.addHandler(handler)
    try:
        redact_logs()
        once = logging.getLogRecordFactory()
        redact_logs()
        assert logging.getLogRecordFactory() is once
        log.warning("HTTP Request: %s %s", "GET", httpx.URL("http://ann:pa55word@h/v1"))
        log.warning("nothing here %d", 3)
        try:
            raise ValueError(f"got {SECRET}")
        except ValueError:
            log.exception("a stage failed with %s", JUDGE)
    finally:
        log.removeHandler(handler)
        logging.setLogRecordFactory(before)
    shown = stream.getvalue()
    assert "some.library HTTP Request: GET http://***@h/v1" in shown
    assert "nothing here 3" in shown
    assert "ValueError: got ***" in shown
    assert "Traceback" in shown
    assert not [secret for secret in (SECRET, JUDGE, "pa55word") if secret in shown]
