"""Secrets by reference: what looks like one is refused in a recipe, an override or the address of a server.

A recipe and its overrides are recorded with every artifact, in MLflow and in Prefect, for ever. A key belongs into an
environment variable, whose name the recipe may give (`api_key_env`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from components.failures import BadInput
from components.redact import NAMES, redacted

Key = tuple[str | int, ...]

# Keys nobody reads from a recipe; their values are no business of an error message either.
SECRET_KEYS = re.compile(r"(^|_)(api_?key|secret|secret_key|access_key|password|passwd|auth_string|auth_token)$")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
REMEDY = (
    "Put it into an environment variable: judges and endpoints take the variable's name as api_key_env, servers and "
    "S3 have variables of their own, nodes of a cluster have theirs (docs/security.md)"
)
# Addresses that are recorded and shown, and the variables that hold what must not stand in them.
ADDRESSES = {
    "PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
    "PREFECT_UI_URL": "PREFECT_API_AUTH_STRING",
    "MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "AWS_ENDPOINT_URL": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL_S3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "RINGFLOW_STORE": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "RINGFLOW_JUDGE_URL": "a variable that the judge's api_key_env names",
}


def refuse_secrets(data: Any, place: Callable[[Key], str]) -> None:
    """Looks through the plain values of a recipe, before they are validated.

    Args:
        place: where a key was written: `file:line` or the override, without its value.
    Raises:
        BadInput: naming place and key, never the value.
    """
    found = list(_texts(data, ()))
    whole = "\n".join(value for _, value in found)
    suspicious = redacted(whole) != whole
    for key, value in found:
        name = str(key[-1]) if key else ""
        if name == "api_key_env":
            if value and not VARIABLE.fullmatch(value):
                raise _refused("this is no name of an environment variable, and may be the key itself", key, place)
        elif (SECRET_KEYS.search(name) or (key[-2:-1] == ("env",) and NAMES.search(name))) and value:
            raise _refused("a recipe holds no secrets", key, place)
        if suspicious and redacted(value) != value:
            raise _refused("a secret stands in this value", key, place)


def refuse_in_addresses() -> None:
    """The addresses of servers in the environment are without passwords: they stand in links, lineage and errors.

    Raises:
        BadInput: naming the variable, and the one to use.
    """
    for name, instead in ADDRESSES.items():
        refuse_in_address(os.environ.get(name, ""), name, f"Put user and password into {instead}")


def refuse_in_address(address: str, where: str, remedy: str = REMEDY) -> None:
    """The same for one address. `where` names the variable or the option."""
    if redacted(address) != address:
        raise BadInput("a password or key stands in this address", where=where, remedy=remedy)


def _refused(problem: str, key: Key, place: Callable[[Key], str]) -> BadInput:
    return BadInput(problem, where=f"{place(key)}: {'.'.join(map(str, key))}", remedy=REMEDY)


def _texts(value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*key, index))
