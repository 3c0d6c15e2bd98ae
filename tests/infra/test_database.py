"""Where Prefect's and MLflow's tables are: SQLite or PostgreSQL. The real one is in tests/faults/test_team.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.failures import BadInput, InfrastructureError
from infra.stack import database
from infra.stack.home import credentials
from infra.stack.ports import choose

SERVER = "postgresql://ringflow:pass%2Fword@db.example.org:5433"


def test_the_home_remembers_the_server_until_it_is_sent_back_to_sqlite(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(database.VARIABLE, raising=False)
    assert database.prefect_url(tmp_path, credentials(tmp_path, create=True)).startswith("sqlite+aiosqlite:///")
    monkeypatch.setenv(database.VARIABLE, SERVER + "/")
    credentials(tmp_path, create=True)
    monkeypatch.delenv(database.VARIABLE)
    keys = credentials(tmp_path, create=True)
    address = SERVER.removeprefix("postgresql://")
    assert database.prefect_url(tmp_path, keys) == f"postgresql+asyncpg://{address}/prefect"
    assert database.mlflow_url(tmp_path, keys) == f"postgresql+psycopg2://{address}/mlflow"
    monkeypatch.setenv(database.VARIABLE, database.NONE)
    assert database.mlflow_url(tmp_path, credentials(tmp_path, create=True)).startswith("sqlite:///")


@pytest.mark.parametrize("wrong", ["db:5432", "mysql://u:p@h", "postgresql://h", "postgresql://u:p@h/ringflow"])
def test_another_form_is_refused(wrong: str, monkeypatch) -> None:
    monkeypatch.setenv(database.VARIABLE, wrong)
    with pytest.raises(BadInput, match="RINGFLOW_POSTGRES"):
        database.wanted("")


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg2", reason="the driver is not installed: make install")
    port = choose(())
    with pytest.raises(InfrastructureError, match=f"127.0.0.1:{port} does not answer") as failed:
        database.check({"postgres": f"postgresql://ringflow:hidden-word@127.0.0.1:{port}"})
    assert "hidden-word" not in str(failed.value)
