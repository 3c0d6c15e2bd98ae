"""A team's PostgreSQL in the place of the two SQLite files: RINGFLOW_POSTGRES=postgresql://user:password@host:port.

Prefect's tables are in its database `prefect`, MLflow's in `mlflow`, as in infra/compose.yaml. The address is
remembered with the other keys of the home: a later command without the variable must not go back to SQLite, where
the team's runs are not. RINGFLOW_POSTGRES=none does go back; nothing is copied either way.
"""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from components.failures import BadInput, InfrastructureError

VARIABLE, NONE = "RINGFLOW_POSTGRES", "none"
PREFECT, MLFLOW = "prefect", "mlflow"


def wanted(remembered: str) -> str:
    """The server's address without a database, or "" for SQLite: the variable, else what the home remembers.

    Raises:
        BadInput: the variable has another form.
    """
    given = os.environ.get(VARIABLE, "").rstrip("/")
    if given in ("", NONE):
        return "" if given else remembered
    parts = urllib.parse.urlsplit(given)
    if parts.scheme != "postgresql" or not (parts.username and parts.hostname) or parts.path or parts.query:
        raise BadInput(
            "this is no address of a PostgreSQL server",
            where=VARIABLE,
            remedy=f"Use postgresql://user:password@host:port, without a database; {NONE} goes back to SQLite",
        )
    return given


def prefect_url(home: Path, keys: Mapping[str, str]) -> str:
    if server := keys.get("postgres"):
        return f"{server.replace('postgresql', 'postgresql+asyncpg', 1)}/{PREFECT}"
    return f"sqlite+aiosqlite:///{home / 'prefect' / 'prefect.db'}"


def mlflow_url(home: Path, keys: Mapping[str, str]) -> str:
    # Named in full: without a driver SQLAlchemy 2.1 takes psycopg 3, which is not installed.
    if server := keys.get("postgres"):
        return f"{server.replace('postgresql', 'postgresql+psycopg2', 1)}/{MLFLOW}"
    return f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def check(keys: Mapping[str, str], timeout_s: float = 10.0) -> None:
    """Signs in to both databases; nothing when the stack uses SQLite.

    Raises:
        BadInput: the driver, a database or the right to use it is missing.
        InfrastructureError: the server does not answer.
    """
    server = keys.get("postgres")
    if not server:
        return
    if find_spec("psycopg2") is None:
        raise BadInput("MLflow's driver psycopg2 is not installed", where=VARIABLE, remedy="Run: make install")
    import asyncpg

    async def sign_in(database: str) -> None:
        await (await asyncpg.connect(f"{server}/{database}", timeout=timeout_s)).close()

    place = urllib.parse.urlsplit(server)
    for database in (PREFECT, MLFLOW):
        try:
            asyncio.run(sign_in(database))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise BadInput(
                f"PostgreSQL at {place.hostname}:{place.port or 5432}, database {database}: {error}",
                where=VARIABLE,
                remedy=f"Correct the address, or make the databases: createdb -O {place.username} {PREFECT}; the same "
                f"for {MLFLOW}",
            ) from None
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise InfrastructureError(
                f"PostgreSQL at {place.hostname}:{place.port or 5432} does not answer ({reason}). "
                f"Start it, correct {VARIABLE}, or set it to {NONE} for SQLite"
            ) from None
