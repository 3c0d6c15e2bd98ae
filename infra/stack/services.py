"""The five servers: how each is started, which ports it needs, how its health is asked; and one more on request.

Listed in the order of their needs; `after` names what must be healthy before the start. Everything listens on
127.0.0.1 only. Ray's Jobs API is there from `ringflow up --jobs` on: whoever has no use for it does not wait for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.stack import database, probes
from infra.stack.home import ray_directory
from infra.stack.ports import GRPC_OFFSET
from infra.stack.profile import (
    JOBS_PORT,
    JOBS_VARIABLE,
    MLFLOW_BUCKET,
    QUIET,
    REGION,
    STORE_BUCKET,
    WORK_POOL,
    local_environment,
)

# Weights and rollouts of a nano run are megabytes; the default, 30 % of the memory, starves the engines.
RAY_OBJECT_STORE_BYTES = 1_000_000_000
WORKER_NAME = "ringflow-local"


@dataclass(frozen=True)
class Site:
    """Where a stack lives: its home, its ports by name, its keys."""

    home: Path
    ports: Mapping[str, int]
    keys: Mapping[str, str]

    def client_environment(self) -> dict[str, str]:
        return local_environment(self.home, dict(self.ports), dict(self.keys))


@dataclass(frozen=True)
class Service:
    """ports: names in the state; paired: the server also takes port + 10000.

    tries: starts before an end at the start is an error; more than one only for ends that a second start cures.

    probe(site, started_at, timeout_s) raises probes.Unhealthy with the reason.

    lives_with: the service it is a part of: when that starts again, so does this.

    files: {path: JSON} that it reads; written before each start, for this user alone.
    """

    name: str
    ports: tuple[str, ...]
    command: Callable[[Site], list[str]]
    variables: Callable[[Site], dict[str, str]]
    probe: Callable[[Site, float, float], None]
    url: Callable[[Site], str]
    paired: bool = False
    tries: int = 1
    after: str | None = None
    lives_with: str | None = None
    cwd: Callable[[Site], Path] = field(default=lambda site: site.home)
    files: Callable[[Site], dict[Path, Any]] = field(default=lambda site: {})


def program(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / name)


def _identities(site: Site) -> dict[Path, Any]:
    """One key for each bucket, and neither may make or remove buckets (SeaweedFS's form; infra/compose.yaml has it)."""
    owners = {STORE_BUCKET: "", MLFLOW_BUCKET: "mlflow_"}
    identities = [
        {
            "name": bucket,
            "credentials": [
                {
                    "accessKey": site.keys[f"{owner}aws_access_key_id"],
                    "secretKey": site.keys[f"{owner}aws_secret_access_key"],
                }
            ],
            "actions": [f"{action}:{bucket}" for action in ("Read", "Write", "List")],
        }
        for bucket, owner in owners.items()
    ]
    return {site.home / "s3.json": {"identities": identities}}


def _s3_command(site: Site) -> list[str]:
    sockets = ray_directory(site.home)  # short enough for Unix sockets
    return [
        program("weed"),
        f"-logdir={site.home / 'logs'}",
        "mini",
        f"-dir={site.home / 's3'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={site.ports['s3']}",
        f"-master.port={site.ports['s3-master']}",
        f"-volume.port={site.ports['s3-volume']}",
        f"-filer.port={site.ports['s3-filer']}",
        f"-admin.port={site.ports['s3-admin']}",
        *(
            f"-{part}.port.grpc={site.ports[port] + GRPC_OFFSET}"
            for part, port in (("s3", "s3"), ("volume", "s3-volume"), ("filer", "s3-filer"), ("admin", "s3-admin"))
        ),
        *(f"-s3.config={path}" for path in _identities(site)),
        f"-s3.localSocket={sockets / 's3.sock'}",
        f"-filer.localSocket={sockets / 'filer.sock'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        f"-bucket={STORE_BUCKET},{MLFLOW_BUCKET}",
    ]


def _s3_probe(site: Site, started_at: float, timeout_s: float) -> None:
    key_id, secret = site.keys["mlflow_aws_access_key_id"], site.keys["mlflow_aws_secret_access_key"]
    probes.s3(f"http://127.0.0.1:{site.ports['s3']}", MLFLOW_BUCKET, key_id, secret, REGION, timeout_s=timeout_s)


def _prefect_variables(site: Site) -> dict[str, str]:
    return {
        **QUIET,
        "PREFECT_HOME": str(site.home / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": database.prefect_url(site.home, site.keys),
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{site.ports['prefect']}/api",
        "PREFECT_API_URL": f"http://127.0.0.1:{site.ports['prefect']}/api",
    }


def _mlflow_command(site: Site) -> list[str]:
    return [
        *(sys.executable, "-m", "infra.stack.mlflow_server"),
        *("--host", "127.0.0.1", "--port", str(site.ports["mlflow"]), "--workers", "1"),
        *("--artifacts-destination", f"s3://{MLFLOW_BUCKET}", "--serve-artifacts"),
    ]


def _mlflow_variables(site: Site) -> dict[str, str]:
    endpoint = f"http://127.0.0.1:{site.ports['s3']}"
    # Job execution (LLM judges in the server) would be three more processes.
    return {
        **QUIET,
        # Not an option of the command, which every user of the machine can read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": database.mlflow_url(site.home, site.keys),
        "AWS_ACCESS_KEY_ID": site.keys["mlflow_aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": site.keys["mlflow_aws_secret_access_key"],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


RAY_PORTS = {
    "ray-gcs": "port",
    "ray-raylet": "node-manager-port",
    "ray-objects": "object-manager-port",
    "ray-agent": "dashboard-agent-listen-port",
    "ray-agent-grpc": "dashboard-agent-grpc-port",
    "ray-environments": "runtime-env-agent-port",
    "ray-metrics": "metrics-export-port",
}


def _ray_command(site: Site) -> list[str]:
    return [
        *(sys.executable, "-m", "infra.stack.ray_head", "start", "--head", "--block"),
        "--node-ip-address=127.0.0.1",
        *(f"--{option}={site.ports[name]}" for name, option in RAY_PORTS.items()),
        "--include-dashboard=false",
        "--include-log-monitor=false",
        "--no-monitor",
        "--disable-usage-stats",
        f"--num-cpus={os.cpu_count()}",
        f"--object-store-memory={RAY_OBJECT_STORE_BYTES}",
        f"--temp-dir={ray_directory(site.home)}",
    ]


def _ray_variables(site: Site) -> dict[str, str]:
    # Ray's workers inherit what the head has, so this is also what the actors know of the stack.
    variables = site.client_environment()
    del variables["RAY_ADDRESS"]
    variables.pop(JOBS_VARIABLE, None)  # switching the Jobs API on must not restart Ray
    # Ray's default niceness of 15 makes learners and engines give way to every server that polls on the same cores.
    return {**variables, "RAY_agent_register_timeout_ms": "120000", "RAY_worker_niceness": "0"}


def _ray_probe(site: Site, started_at: float, timeout_s: float) -> None:
    # Written when the head has finished starting. GCS and raylet answer before that, and Ray gives the raylet 30 s to
    # register: on a machine that computes hard it can end after both were healthy.
    address = ray_directory(site.home) / "ray_current_cluster"
    if not address.exists():
        raise probes.Unhealthy("the head is still starting")
    for port in ("ray-gcs", "ray-raylet"):
        probes.grpc_health(site.ports[port], site.keys["ray_auth_token"], timeout_s=timeout_s)


def _jobs_command(site: Site) -> list[str]:
    return [
        *(sys.executable, "-m", "infra.stack.ray_jobs"),
        f"--address=127.0.0.1:{site.ports['ray-gcs']}",
        f"--temp-dir={ray_directory(site.home)}",
        f"--port={site.ports[JOBS_PORT]}",
    ]


def _jobs_probe(site: Site, started_at: float, timeout_s: float) -> None:
    url = f"http://127.0.0.1:{site.ports[JOBS_PORT]}/api/version"
    token = {"authorization": f"Bearer {site.keys['ray_auth_token']}"}
    probes.request(url, headers=token, timeout_s=timeout_s)


def _worker_command(site: Site) -> list[str]:
    # One flow run at a time: a run uses every core of the machine, so a second one waits its turn in the queue.
    return [
        *(sys.executable, "-m", "infra.prefect_worker", "--no-prompt", "worker", "start", "--pool", WORK_POOL),
        *("--type", "process", "--name", WORKER_NAME, "--limit", "1", "--install-policy", "never"),
    ]


def _worker_probe(site: Site, started_at: float, timeout_s: float) -> None:
    api = f"http://127.0.0.1:{site.ports['prefect']}/api"
    probes.worker_online(api, WORK_POOL, WORKER_NAME, started_at, timeout_s=timeout_s)


def _http(port: str, path: str) -> Callable[[Site, float, float], None]:
    return lambda site, started_at, timeout_s: probes.http(
        f"http://127.0.0.1:{site.ports[port]}{path}", timeout_s=timeout_s
    )


def _project_root(site: Site) -> Path:
    return Path(__file__).resolve().parents[2]


SERVICES: tuple[Service, ...] = (
    Service(
        "s3",
        ("s3", "s3-master", "s3-volume", "s3-filer", "s3-admin"),
        _s3_command,
        lambda site: {},
        _s3_probe,
        lambda site: f"http://127.0.0.1:{site.ports['s3']}",
        paired=True,
        files=_identities,
    ),
    Service(
        "prefect",
        ("prefect",),
        lambda site: [
            *(program("prefect"), "--no-prompt", "server", "start"),
            *("--host", "127.0.0.1", "--port", str(site.ports["prefect"]), "--analytics-off"),
        ],
        _prefect_variables,
        _http("prefect", "/api/health"),
        lambda site: f"http://127.0.0.1:{site.ports['prefect']}",
    ),
    Service(
        "mlflow",
        ("mlflow",),
        _mlflow_command,
        _mlflow_variables,
        _http("mlflow", "/health"),
        lambda site: f"http://127.0.0.1:{site.ports['mlflow']}",
        cwd=_project_root,
    ),
    Service(
        "ray",
        tuple(RAY_PORTS),
        _ray_command,
        _ray_variables,
        _ray_probe,
        lambda site: f"127.0.0.1:{site.ports['ray-gcs']}",
        tries=2,
        cwd=_project_root,
    ),
    Service(
        "worker",
        (),
        _worker_command,
        lambda site: site.client_environment(),
        _worker_probe,
        lambda site: f"work pool {WORK_POOL}",
        after="prefect",
        cwd=_project_root,
    ),
)

# Started when asked for, and from then on with the others: its port among the home's says that it is wanted.
JOBS = Service(
    "jobs",
    (JOBS_PORT,),
    _jobs_command,
    _ray_variables,
    _jobs_probe,
    lambda site: f"http://127.0.0.1:{site.ports[JOBS_PORT]}",
    after="ray",
    lives_with="ray",
    cwd=_project_root,
)
EVERY = (*SERVICES, JOBS)


def wanted(ports: Mapping[str, int]) -> tuple[Service, ...]:
    """The services of a home with these ports."""
    return EVERY if JOBS_PORT in ports else SERVICES
