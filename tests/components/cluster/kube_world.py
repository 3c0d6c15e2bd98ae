"""A Kubernetes to test against: the small server of kube_server.py, or a real one.

RINGFLOW_TEST_KUBECONFIG, an administrator's kubeconfig, chooses the real one: a namespace of its own with the role of
infra/kubernetes/rayjobs bound to a service account, whose token is what ringflow gets. KubeRay's CRDs and the priority
classes of infra/kubernetes must be there, its operator and a scheduler must not: the tests play their parts. No kubelet
is needed either: a node is made whose kubelet is this process, for logs.
"""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from components.cluster.kube import Kube
from components.cluster.kubeconfig import _of_file
from components.failures import RingflowError
from tests.components.cluster.kube_server import KubeServer, Logs, send_log

ROOT = Path(__file__).parents[3]
REAL = os.environ.get("RINGFLOW_TEST_KUBECONFIG", "")
BACKENDS = ("stand-in", "real") if REAL else ("stand-in",)
ACCESS = list(yaml.safe_load_all((ROOT / "infra/kubernetes/rayjobs/access.yaml").read_text()))
RULES = next(each["rules"] for each in ACCESS if each["kind"] == "Role")


class World:
    """kubeconfig: ringflow's. admin: may do everything. server: the stand-in, None for a real one. logs: of pods."""

    def __init__(self, namespace: str, kubeconfig: Path, admin: Kube, server: KubeServer | None) -> None:
        self.namespace, self.kubeconfig, self.admin, self.server = namespace, kubeconfig, admin, server
        self.logs: Logs = lambda pod, container, since, follow: iter(())

    def client(self) -> Kube:
        return Kube(_of_file(self.kubeconfig))

    def status(self, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        item = self.admin.get(kind, name)
        item["status"] = {**(item.get("status") or {}), **fields}
        return self.admin._call("PUT", self.admin._path(kind, name) + "/status", json=item)

    def pod(self, name: str, labels: dict[str, str], **status: Any) -> None:
        """A pod that nobody starts, with this status."""
        image = "registry.example.org/r:1"
        spec: dict[str, Any] = {"containers": [{"name": each, "image": image} for each in ("ray-head", "log")]}
        if status.pop("on_node", False):
            spec["nodeName"] = self.node()
        metadata = {"name": name, "labels": labels}
        self.admin.create("v1/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        if status:
            self.status("v1/pods", name, **status)

    def node(self) -> str:
        return f"node-{self.namespace}"

    def warn(self, about: str, reason: str, message: str) -> None:
        name = f"{about}.{uuid.uuid4().hex[:8]}"
        item = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Warning", "reason": reason}
        about_ = {"kind": "Pod", "namespace": self.namespace, "name": about, "apiVersion": "v1"}
        stamp = {"lastTimestamp": "2026-11-28T00:00:00Z", "firstTimestamp": "2026-11-28T00:00:00Z"}
        self.admin.create("v1/events", {**item, **stamp, "message": message, "involvedObject": about_})


def kubeconfig(path: Path, server: str, authority: bytes, token: str, namespace: str) -> Path:
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    context = {"cluster": "c", "user": "u", "namespace": namespace}
    config = {"clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": token}}]}
    config |= {"contexts": [{"name": "x", "context": context}], "current-context": "x"}
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def stand_in(directory: Path) -> Iterator[World]:
    world: World
    with KubeServer(directory, lambda *about: world.logs(*about)) as server:
        server.tokens |= {"admin": None, "stages": RULES}
        authority = server.certificate.read_bytes()
        ours = kubeconfig(directory / "kubeconfig", server.url, authority, "stages", "ringflow")
        admin = kubeconfig(directory / "admin", server.url, authority, "admin", "ringflow")
        world = World("ringflow", ours, Kube(_of_file(admin)), server)
        yield world


@contextmanager
def real(directory: Path) -> Iterator[World]:
    namespace = f"rf-{uuid.uuid4().hex[:8]}"
    admin = Kube(_of_file(Path(REAL)), namespace)
    config = yaml.safe_load(Path(REAL).read_text())["clusters"][0]["cluster"]
    authority = config.get("certificate-authority-data")
    authority = base64.b64decode(authority) if authority else Path(config["certificate-authority"]).read_bytes()
    world: World
    with kubelet(directory, lambda *about: world.logs(*about)) as port:
        _cluster_wide(admin, "POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            for item in ACCESS:
                item = {**item, "metadata": {**item["metadata"], "namespace": namespace}}
                for subject in item.get("subjects", ()):
                    subject["namespace"] = namespace
                version = item["apiVersion"]
                admin.create(f"{version}/{item['kind'].lower()}s", item)
            with suppress(RingflowError):  # where a controller manager runs, it makes one
                account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
                admin.create("v1/serviceaccounts", account)
            asked = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 3600},
            }
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/stages/token"
            token = _cluster_wide(admin, "POST", path, asked)["status"]["token"]
            ours = kubeconfig(directory / "kubeconfig", config["server"], authority, token, namespace)
            world = World(namespace, ours, admin, None)
            _node(admin, world.node(), port)
            yield world
        finally:
            with suppress(RingflowError):
                _cluster_wide(admin, "DELETE", f"/api/v1/nodes/{world.node()}", {})
            _cluster_wide(admin, "DELETE", f"/api/v1/namespaces/{namespace}", {})


def _cluster_wide(admin: Kube, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return admin._call(method, path, json=body)


def _node(admin: Kube, name: str, port: int) -> None:
    _cluster_wide(admin, "POST", "/api/v1/nodes", {"metadata": {"name": name}})
    for attempt in range(10):
        made = _cluster_wide(admin, "GET", f"/api/v1/nodes/{name}")
        made["status"] |= {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        try:
            _cluster_wide(admin, "PUT", f"/api/v1/nodes/{name}/status", made)
        except RingflowError:  # a controller manager, where there is one, writes to new nodes too
            if attempt == 9:
                raise
        else:
            return


@contextmanager
def kubelet(directory: Path, logs: Logs) -> Iterator[int]:
    """Serves the logs of pods to a real API server; its port."""
    certificate = directory / "kubelet.crt"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=kubelet"
    command += f" -keyout {directory}/kubelet.key -out {certificate} -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            _, _, _, pod, container = url.path.split("/")
            send_log(self, logs(pod, container, query.get("sinceTime", ""), query.get("follow") == "true"))

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # who followed a log went away
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, directory / "kubelet.key")
    http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield http.server_port
    finally:
        http.shutdown()
        http.server_close()
