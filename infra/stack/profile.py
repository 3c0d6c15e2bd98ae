"""What a client needs to reach the servers, for both profiles, as environment variables.

`local` (default): the servers of RINGFLOW_HOME. `cluster`: RINGFLOW_PROFILE=cluster, or every endpoint given in the
environment; then nothing is started here and nothing is invented: what is missing is named.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from components.failures import BadInput
from components.recipe.secrets import refuse_in_addresses
from infra.stack.home import credentials, home_directory, ray_directory, read_state

ENDPOINTS = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "RAY_ADDRESS", "RINGFLOW_STORE")
STORE_BUCKET, MLFLOW_BUCKET, REGION = "ringflow", "mlflow", "us-east-1"
WORK_POOL = "ringflow"
# Ray's own name for the address of its Jobs API.
JOBS_VARIABLE, JOBS_PORT = "RAY_API_SERVER_ADDRESS", "ray-jobs"

# Telemetry off, logs where people look, no fall-back to a server inside the client: an unreachable server must show.
QUIET = {
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What ringflow logs stands with the run in Prefect; what it logs outside a run concerns nobody there.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "components,flows,tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def profile() -> Literal["local", "cluster"]:
    """RINGFLOW_PROFILE if set; otherwise `cluster` exactly when all endpoints are in the environment.

    Raises:
        BadInput: RINGFLOW_PROFILE is something else.
    """
    named = os.environ.get("RINGFLOW_PROFILE", "")
    if named == "local":
        return "local"
    if named == "cluster":
        return "cluster"
    if named:
        raise BadInput(f"'{named}' is no profile", where="RINGFLOW_PROFILE", remedy="Use local or cluster, or unset it")
    return "cluster" if all(os.environ.get(name) for name in ENDPOINTS) else "local"


def environment(home: Path | str | None = None) -> dict[str, str]:
    """Variables for `os.environ` of a client of the stack; strings only.

    Raises:
        BadInput: the local stack was never started in this home, or an endpoint of the cluster is missing
            or has a password in it.
    """
    if profile() == "cluster":
        missing = [name for name in ENDPOINTS if not os.environ.get(name)]
        if missing:
            raise BadInput(
                f"the cluster profile needs {', '.join(missing)}",
                where="environment",
                remedy="Set them, or RINGFLOW_PROFILE=local for the embedded stack",
            )
        refuse_in_addresses()
        return {**QUIET, "RINGFLOW_PROFILE": "cluster", **{name: os.environ[name] for name in ENDPOINTS}}
    place = home_directory(home)
    keys = credentials(place)
    ports = read_state(place)["ports"]
    try:
        return local_environment(place, ports, keys)
    except KeyError as error:
        raise BadInput(
            f"the local stack has no port for {error.args[0]} yet", where=str(place), remedy="Run: ringflow up"
        ) from None


def local_environment(home: Path, ports: dict[str, int], keys: dict[str, str]) -> dict[str, str]:
    """The same, from its parts; KeyError when a port was not chosen yet."""
    loopback = _without_proxy(os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "")
    return {
        **QUIET,
        "RINGFLOW_PROFILE": "local",
        "RINGFLOW_HOME": str(home),
        "RINGFLOW_STORE": f"s3://{STORE_BUCKET}",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']}/api",
        "PREFECT_UI_URL": f"http://127.0.0.1:{ports['prefect']}",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": keys["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": REGION,
        "RAY_ADDRESS": f"127.0.0.1:{ports['ray-gcs']}",
        **({JOBS_VARIABLE: f"http://127.0.0.1:{ports[JOBS_PORT]}"} if JOBS_PORT in ports else {}),
        "RAY_TMPDIR": str(ray_directory(home)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": keys["ray_auth_token"],
        # Ray replaces 127.0.0.1 by the machine's outer address and then listens on every interface; with its
        # multi-node switch off (the default on macOS, hence the name) head and drivers both stay on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Must be set before a driver starts (FACTS of Ray: torch tensors are copied otherwise).
        "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def _without_proxy(given: str) -> str:
    """NO_PROXY with the loopback names added once: clients export it, so it comes back here."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*names, "127.0.0.1", "localhost"]))
