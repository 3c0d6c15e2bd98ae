"""A small API server for RayJobs, pods and events, over TLS, in the place of Kubernetes' own where that is not there.

It does what the tests see of the real one: names taken once (409), versions that conflict (409), lists in pages whose
token grows old (410), a status that only its own path changes, finalizers before a deletion, dependents after it,
unknown fields refused (400), KubeRay's schema (422), tokens (401) and the rules of a Role (403). The same tests run
against a real server (tests/components/cluster/kube_world.py), so what is wrong here shows there.
"""

from __future__ import annotations

import copy
import json
import ssl
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.infra.cluster_policy import ray_job_schema

KINDS = {"rayjobs": "RayJob", "pods": "Pod", "events": "Event", "secrets": "Secret", "services": "Service"}
GROUPS = {plural: "ray.io" if plural == "rayjobs" else "" for plural in KINDS}
# (pod, since, follow) -> lines `TIME TEXT`
Logs = Callable[[str, str, str, bool], Iterator[str]]
Rule = Mapping[str, Any]


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """{(namespace, plural, name): object}, and what the API does with them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.kept: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.version = 0
        self.forget_pages = False

    def get(self, space: str, plural: str, name: str) -> dict[str, Any]:
        found = self.kept.get((space, plural, name))
        if found is None:
            raise Refused(404, "NotFound", f'{plural}.{GROUPS[plural]} "{name}" not found'.replace(". ", " "))
        return found

    def list(self, space: str, plural: str, query: Mapping[str, str]) -> dict[str, Any]:
        names = sorted(name for at, kind, name in self.kept if (at, kind) == (space, plural))
        found = [item for name in names if selected(item := self.kept[space, plural, name], query)]
        start, limit = 0, int(query.get("limit", 0)) or len(found)
        if token := query.get("continue"):
            if self.forget_pages:
                self.forget_pages = False
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            start = int(token)
        part = found[start : start + limit]
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(found):
            metadata["continue"] = str(start + limit)
        return {"kind": f"{KINDS[plural]}List", "metadata": metadata, "items": part}

    def create(self, space: str, plural: str, item: dict[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
        name = item["metadata"]["name"]
        check(plural, item, query.get("fieldValidation") == "Strict")
        if (space, plural, name) in self.kept:
            raise Refused(409, "AlreadyExists", f'{plural}.{GROUPS[plural]} "{name}" already exists')
        item["metadata"] |= {"namespace": space, "uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        if plural != "events":
            item.pop("status", None)
        return self._keep(space, plural, item)

    def replace(self, space: str, plural: str, item: dict[str, Any], part: str) -> dict[str, Any]:
        old = self.get(space, plural, item["metadata"]["name"])
        given = item["metadata"].get("resourceVersion")
        if given and given != old["metadata"]["resourceVersion"]:
            raise Refused(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        new = copy.deepcopy(old)
        if part == "status":
            new["status"] = item.get("status", {})
        else:
            new["spec"] = item.get("spec", new.get("spec"))
            for each, nothing in (("labels", {}), ("annotations", {}), ("finalizers", [])):
                new["metadata"][each] = item["metadata"].get(each) or nothing
        check(plural, new, False)
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            return self._remove(space, plural, new)
        return self._keep(space, plural, new)

    def delete(self, space: str, plural: str, name: str) -> dict[str, Any]:
        item = self.get(space, plural, name)
        if item["metadata"].get("finalizers"):
            item["metadata"].setdefault("deletionTimestamp", now())
            return self._keep(space, plural, item)
        return self._remove(space, plural, item)

    def _keep(self, space: str, plural: str, item: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.kept[space, plural, item["metadata"]["name"]] = item
        return item

    def _remove(self, space: str, plural: str, item: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.kept.pop((space, plural, item["metadata"]["name"]), None)
        for (at, kind, name), each in list(self.kept.items()):
            owners = {owner["uid"] for owner in each["metadata"].get("ownerReferences", ())}
            if item["metadata"]["uid"] in owners and (at, kind, name) in self.kept:
                self.delete(at, kind, name)
        return item


def selected(item: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
    if not wanted.items() <= labels.items():
        return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = part.partition("=")
        at: Any = item
        for key in path.split("."):
            at = at.get(key, {}) if isinstance(at, dict) else {}
        if at != value:
            return False
    return True


def check(plural: str, item: dict[str, Any], strict: bool) -> None:
    if plural != "rayjobs":
        return
    unknown, wrong = ray_job_schema(item)
    if unknown and strict:
        raise Refused(400, "BadRequest", f"strict decoding error: {'; '.join(unknown)}")
    if wrong:
        raise Refused(422, "Invalid", f'RayJob.ray.io "{item["metadata"]["name"]}" is invalid: {"; ".join(wrong)}')


class KubeServer:
    """A context manager. tokens: {token: rules of its Role, or None for everything}; may be changed at any time."""

    def __init__(self, directory: Path, logs: Logs) -> None:
        self.objects, self.logs, self.tokens = Objects(), logs, dict[str, list[Rule] | None]()
        self.requests: list[str] = []
        self.away = False
        self.certificate = directory / "server.crt"
        key = directory / "server.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(key), "-out", str(self.certificate), "-days", "2", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        handler = type("Handler", (_Handler,), {"server_": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # who followed a log went away
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> KubeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def allowed(self, token: str, verb: str, group: str, resource: str) -> None:
        if token not in self.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")
        rules = self.tokens[token]
        if rules is not None and not any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"] for rule in rules
        ):
            raise Refused(403, "Forbidden", f'User cannot {verb} resource "{resource}" in API group "{group}"')


class _Handler(BaseHTTPRequestHandler):
    server_: KubeServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        kube = self.server_
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            if kube.away:
                raise Refused(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            self._answer(200 if self.command != "POST" else 201, self._handle(kube, body))
        except Refused as error:
            status = {"kind": "Status", "status": "Failure", "message": str(error), "reason": error.reason}
            self._answer(error.code, {**status, "code": error.code})

    do_GET = do_POST = do_PUT = do_DELETE = do

    def _handle(self, kube: KubeServer, body: dict[str, Any]) -> dict[str, Any] | None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        if len(rest) < 3 or rest[0] != "namespaces" or GROUPS.get(rest[2]) != group:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        space, plural, name, part = rest[1], rest[2], *[*rest[3:], "", ""][:2]
        verbs = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "DELETE": "delete"}
        kube.requests.append(f"{verbs[self.command]} {plural}{'/' + part if part else ''}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        kube.allowed(token, verbs[self.command], group, f"{plural}/{part}" if part else plural)
        with kube.objects.lock:
            if part == "log":
                kube.objects.get(space, plural, name)
            elif self.command == "GET":
                found = kube.objects.get(space, plural, name) if name else kube.objects.list(space, plural, query)
                return copy.deepcopy(found)
            elif self.command == "POST":
                return copy.deepcopy(kube.objects.create(space, plural, body, query))
            elif self.command == "PUT":
                return copy.deepcopy(kube.objects.replace(space, plural, body, part))
            else:
                return copy.deepcopy(kube.objects.delete(space, plural, name))
        since, follow = query.get("sinceTime", ""), query.get("follow") == "true"
        send_log(self, kube.logs(name, query["container"], since, follow))
        return None

    def _answer(self, code: int, content: dict[str, Any] | None) -> None:
        if content is None:
            return
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def send_log(handler: BaseHTTPRequestHandler, lines: Iterator[str]) -> None:
    """As an API server and a kubelet do: chunk by chunk, each line when it is there."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        for line in lines:
            data = line.encode() + b"\n"
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")
    except OSError:  # who read it went away
        handler.close_connection = True
