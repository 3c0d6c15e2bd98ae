"""Who we are to a Kubernetes API server: the service account of this pod, else the current context of a kubeconfig.

The subset of a kubeconfig that clusters hand out: a certificate, a token, a file with one, or a program that prints one
(client.authentication.k8s.io). Tokens of pods are replaced every hour, so files are read anew for every request.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from components.failures import BadInput, InfrastructureError

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REMEDY = "In a pod: a service account with its token mounted. Elsewhere: KUBECONFIG, whose current context is used"
PROGRAM_S = 60
EARLY_S = 60


@dataclass(frozen=True)
class Access:
    """server: its URL. token: called for every request; "" without one. where: for messages."""

    server: str
    namespace: str
    tls: ssl.SSLContext
    token: Callable[[], str]
    where: str


def find_access() -> Access:
    """Raises BadInput when there is neither, or one that is not understood."""
    named = os.environ.get("KUBECONFIG", "")
    if not named and os.environ.get("KUBERNETES_SERVICE_HOST") and (POD / "token").is_file():
        return _of_pod()
    path = Path(named.split(os.pathsep)[0] if named else "~/.kube/config").expanduser()
    if not path.is_file():
        raise BadInput("stages as RayJobs need access to a Kubernetes API server", where=str(path), remedy=REMEDY)
    return _of_file(path)


def _of_pod() -> Access:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Access(
        f"https://{host}:{port}",
        (POD / "namespace").read_text().strip(),
        ssl.create_default_context(cafile=str(POD / "ca.crt")),
        lambda: _read(POD / "token"),
        "the service account of this pod",
    )


def _of_file(path: Path) -> Access:
    try:
        config = yaml.safe_load(path.read_text())
        contexts, clusters, users = (
            {each["name"]: each[kind] for each in config.get(f"{kind}s") or ()}
            for kind in ("context", "cluster", "user")
        )
        context = contexts[config["current-context"]]
        cluster, user = clusters[context["cluster"]], users[context["user"]]
        server = cluster["server"].rstrip("/")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"not a kubeconfig with a current context: {error!r}", where=str(path), remedy=REMEDY) from error
    if not server.startswith("https://"):
        raise BadInput("the API server must be reached by https", where=f"{path}: {server}", remedy=REMEDY)
    namespace = context.get("namespace") or "default"
    return Access(server, namespace, _tls(cluster, user, path), _token(user, path), f"the user of {path}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext:
    try:
        with ExitStack() as files:
            authority = _file(cluster, "certificate-authority", path, files)
            context = ssl.create_default_context(cafile=authority)
            if cluster.get("insecure-skip-tls-verify"):
                raise BadInput("a server whose certificate is not verified is not used", where=str(path), remedy=REMEDY)
            certificate, key = (_file(user, f"client-{each}", path, files) for each in ("certificate", "key"))
            if certificate and key:
                context.load_cert_chain(certificate, key)
            return context
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BadInput(f"its certificates cannot be used: {error}", where=str(path), remedy=REMEDY) from error


def _file(section: dict[str, Any], name: str, path: Path, files: ExitStack) -> str | None:
    """Of something a kubeconfig holds itself or by name; Python reads keys from files only."""
    if data := section.get(f"{name}-data"):
        kept = files.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115  (readable by its owner alone)
        kept.write(base64.b64decode(data))
        kept.flush()
        return kept.name
    return str(path.parent / section[name]) if section.get(name) else None


def _token(user: dict[str, Any], path: Path) -> Callable[[], str]:
    if user.get("token"):
        return lambda: user["token"]
    if user.get("tokenFile"):
        return lambda: _read(path.parent / user["tokenFile"])
    if user.get("exec"):
        return Program(user["exec"], path)
    if user.get("username") or user.get("auth-provider"):
        raise BadInput("passwords and auth-provider are not understood", where=str(path), remedy=REMEDY)
    return lambda: ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InfrastructureError(f"the token of the service account cannot be read: {error}") from error


class Program:
    """A program that prints a token, asked again when that is about to expire."""

    def __init__(self, about: dict[str, Any], path: Path) -> None:
        self._about, self._path = about, path
        self._token, self._until = "", 0.0

    def __call__(self) -> str:
        if self._token and time.time() < self._until:
            return self._token
        about = self._about
        env = os.environ | {each["name"]: each["value"] for each in about.get("env") or ()}
        asked = {"apiVersion": about["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
        env["KUBERNETES_EXEC_INFO"] = json.dumps(asked)
        try:
            command = [about["command"], *(about.get("args") or ())]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PROGRAM_S, check=True)
            status = json.loads(done.stdout)["status"]
            self._token = status["token"]
            until = status.get("expirationTimestamp")
            self._until = datetime.fromisoformat(until).timestamp() - EARLY_S if until else float("inf")
        except FileNotFoundError as error:
            raise BadInput(f"{about['command']} is not installed", where=str(self._path), remedy=REMEDY) from error
        except subprocess.CalledProcessError as error:
            raise InfrastructureError(f"{about['command']} gave no token: {error.stderr[-500:].strip()}") from error
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
            raise InfrastructureError(f"{about['command']} gave no token: {error}") from error
        return self._token
