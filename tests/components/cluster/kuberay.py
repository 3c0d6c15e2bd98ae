"""KubeRay's part and a kubelet's, played: RayJobs become real Rays on this machine, and their status is written.

The states, fields and their order are those of ray-operator/controllers/ray/rayjob_controller.go (1.7) in HTTPMode: a
finalizer; Initializing with jobId, rayClusterName and startTime; a head's pod; Running; the job submitted to Ray's Jobs
API by its id, again when a new head does not know it; its jobStatus and message copied; Complete or Failed with a
reason; the cluster deleted after its time to live. The head's pod is a Ray of its own (infra.stack's two processes)
with the log sidecar's command beside it, and its end runs the preStop command first, as a kubelet does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from components.cluster.kube import Kube
from components.cluster.rayjob_spec import LOG
from components.cluster.rayjobs import CLUSTER, PODS, RAYJOBS, TYPE
from components.failures import RingflowError
from infra.stack import ports

log = logging.getLogger(__name__)

FINALIZER = "ray.io/rayjob-finalizer"
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
ROOT = Path(__file__).parents[3]
TOKEN = "0123456789abcdef" * 4
START_S = 240.0  # on a machine that does much else
PR_SET_PDEATHSIG = 1


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def put(kube: Kube, kind: str, item: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Replaces an object, or its status."""
    path = kube._path(kind, item["metadata"]["name"]) + (f"/{part}" if part else "")
    return kube._call("PUT", path, json=item)


def set_status(kube: Kube, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    item = kube.get(kind, name)
    item["status"] = {**(item.get("status") or {}), **fields}
    return put(kube, kind, item, "status")


class Printed:
    """A command whose lines are kept as a container runtime keeps them: each with its time."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._lines: list[tuple[str, str]] = []
        self._more = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            with self._more:
                self._lines.append((when, line.rstrip("\n")))
                self._more.notify_all()
        with self._more:
            self._over = True
            self._more.notify_all()

    def lines(self, since: str, follow: bool) -> Iterator[str]:
        at = 0
        while True:
            with self._more:
                if follow and at == len(self._lines) and not self._over:
                    self._more.wait(0.5)
                new, over = self._lines[at:], self._over
            at += len(new)
            yield from (f"{when} {line}" for when, line in new if when[:19] >= since[:19])
            if not new and (over or not follow):
                return

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


def _end_with_the_test() -> None:
    """Also when that is killed: Linux then sends SIGTERM to whom its thread has started."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Ray:
    """A head with its Jobs API, on ports of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rf-ray-", dir="/tmp"))
        self.killed = False
        taken: list[int] = []
        for _ in range(8):
            taken.append(ports.choose(taken))
        gcs, dashboard, *others = taken
        # What a pod has from its config maps and secrets, which are the stack's here.
        self.environment = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        self.environment |= {"RAY_agent_register_timeout_ms": "120000", "RAY_USAGE_STATS_ENABLED": "0"}
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            self.environment.pop(name, None)
        names = ("node-manager", "object-manager", "dashboard-agent-listen", "dashboard-agent-grpc")
        names += ("runtime-env-agent", "metrics-export")
        head = ["infra.stack.ray_head", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}"]
        head += [f"--{name}-port={port}" for name, port in zip(names, others, strict=True)]
        head += ["--include-dashboard=false", "--include-log-monitor=false", "--no-monitor", "--disable-usage-stats"]
        head += ["--num-cpus=2", "--object-store-memory=100000000", f"--temp-dir={self.directory}"]
        self._processes = [self._start(head)]
        api = [f"--address=127.0.0.1:{gcs}", f"--temp-dir={self.directory}", f"--port={dashboard}"]
        self._api = ["infra.stack.ray_jobs", *api]
        self.url = f"http://127.0.0.1:{dashboard}"
        self._http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        self._began = time.monotonic()

    def _start(self, arguments: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=self.environment,
            cwd=ROOT,
            stdout=(self.directory / "out").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_test,
        )

    def ready(self) -> bool:
        assert time.monotonic() - self._began < START_S, (self.directory / "out").read_text()[-3000:]
        if len(self._processes) == 1:
            if (self.directory / "ray_current_cluster").exists():
                self._processes.append(self._start(self._api))
            return False
        with suppress(httpx.HTTPError):
            return self._http.get("/api/version").status_code == 200
        return False

    def job(self, name: str) -> dict[str, Any] | None:
        answer = self._http.get(f"/api/jobs/{name}")
        return answer.json() if answer.status_code == 200 else None

    def submit(self, spec: Mapping[str, Any], name: str) -> None:
        runtime = yaml.safe_load(spec["runtimeEnvYAML"])
        body = {"entrypoint": spec["entrypoint"], "submission_id": name, "runtime_env": runtime}
        self._http.post("/api/jobs/", json=body)

    def stop_job(self, name: str) -> None:
        with suppress(httpx.HTTPError):
            self._http.post(f"/api/jobs/{name}/stop")

    def kill(self) -> None:
        """The node is gone: nothing gets to say goodbye."""
        self.killed = True
        alive = [psutil.Process(process.pid) for process in self._processes if process.poll() is None]
        for process in [*alive, *(below for each in alive for below in each.children(recursive=True))]:
            with suppress(psutil.Error):
                process.kill()

    def end(self) -> None:
        for process in reversed(self._processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        self.kill()
        self._http.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Head:
    """The pod of a RayJob's head: a Ray, the sidecar that prints the log, and what is run before the pod ends."""

    def __init__(self, template: Mapping[str, Any], ray: Ray) -> None:
        (container,), (sidecar,) = template["spec"]["containers"], template["spec"]["initContainers"]
        self.ray, self._pre_stop = ray, container["lifecycle"]["preStop"]["exec"]["command"]
        self.log = Printed([part.replace("/tmp/ray", str(ray.directory)) for part in sidecar["command"]])

    def end(self) -> None:
        if not self.ray.killed:
            environment = self.ray.environment
            subprocess.run(self._pre_stop, env=environment, cwd=ROOT, timeout=60, check=False)
        self.log.end()


class Operator:
    """A context manager; works on the RayJobs of one namespace. heads: {RayJob: its head}. node: of its pods, if any.

    A Ray takes long to start: one whose RayJob ended well is the next one's, as if just started.
    """

    def __init__(self, kube: Kube, environment: Mapping[str, str], node: str = "") -> None:
        self._kube, self._environment, self._node = kube, environment, node
        self.heads: dict[str, Head] = {}
        self._spare: list[Ray] = []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="KubeRay", daemon=True)

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        for head in self.heads.values():
            head.end()
        for ray in [*self._spare, *(head.ray for head in self.heads.values())]:
            ray.end()

    def log_of(self, pod: str, container: str, since: str, follow: bool) -> Iterator[str]:
        """What a kubelet serves of it."""
        assert container == LOG
        head = self.heads.get(pod.removesuffix("-head"))
        return head.log.lines(since, follow) if head else iter(())

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            try:
                items = self._kube.list(RAYJOBS)
                for item in items:
                    self._reconcile(item)
                for name in set(self.heads) - {item["metadata"]["name"] for item in items}:
                    self._end_cluster(name)
            except (RingflowError, httpx.HTTPError) as error:
                log.debug("%s", error)
            except Exception as error:
                log.exception("the operator failed")
                self.errors.append(repr(error))

    def _reconcile(self, item: dict[str, Any]) -> None:
        name, spec, status = item["metadata"]["name"], item["spec"], item.get("status") or {}
        deployment = status.get("jobDeploymentStatus", "")
        if item["metadata"].get("deletionTimestamp"):
            if name in self.heads and status.get("jobStatus") not in TERMINAL:
                self.heads[name].ray.stop_job(status["jobId"])
            item["metadata"]["finalizers"] = []
            put(self._kube, RAYJOBS, item)
        elif deployment == "":
            if not item["metadata"].get("finalizers"):
                item["metadata"]["finalizers"] = [FINALIZER]
                put(self._kube, RAYJOBS, item)
            cluster = {"jobId": spec["jobId"], "rayClusterName": f"{name}-x7k2p", "jobStatus": ""}
            self._status(name, jobDeploymentStatus="Initializing", startTime=now(), **cluster)
        elif deployment == "Initializing":
            if name not in self.heads:
                self._start_cluster(item)
            elif self.heads[name].ray.ready():
                url = self.heads[name].ray.url.removeprefix("http://")
                self._status(name, jobDeploymentStatus="Running", dashboardURL=url)
        elif deployment == "Running":
            self._running(name, spec, status)
        elif name in self.heads:
            seconds = spec.get("ttlSecondsAfterFinished", 0)
            if time.time() - datetime.fromisoformat(status["endTime"]).timestamp() > seconds:
                self._end_cluster(name)

    def _running(self, name: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        deadline = datetime.fromisoformat(status["startTime"]).timestamp() + spec["activeDeadlineSeconds"]
        if time.time() > deadline:
            said = f"The RayJob has passed the activeDeadlineSeconds. StartTime: {status['startTime']}. "
            said += f"ActiveDeadlineSeconds: {spec['activeDeadlineSeconds']}"
            return self._ended(name, "Failed", reason="DeadlineExceeded", message=said)
        ray = self.heads[name].ray
        try:
            job = ray.job(status["jobId"])
        except httpx.HTTPError as error:
            since = status.get("jobStatusCheckFailureStartTime")
            if since is None:
                return self._status(name, jobStatusCheckFailureStartTime=now())
            if time.time() - datetime.fromisoformat(since).timestamp() > 3:  # 300 by default
                said = f"Job status checks have been failing since {since}; exceeded timeout of 3s"
                return self._ended(name, "Failed", reason="JobStatusCheckTimeoutExceeded", message=said)
            raise error
        if job is None:
            return ray.submit(spec, status["jobId"])
        if (job["status"], job["message"]) == (status.get("jobStatus"), status.get("message")):
            return None
        found = {"jobStatus": job["status"], "message": job["message"]}
        if job["status"] not in TERMINAL:
            return self._status(name, **found)
        failed = job["status"] == "FAILED"
        return self._ended(name, "Failed" if failed else "Complete", reason="AppFailed" if failed else "", **found)

    def _status(self, name: str, **fields: Any) -> None:
        set_status(self._kube, RAYJOBS, name, **fields)

    def _ended(self, name: str, deployment: str, **fields: Any) -> None:
        self._status(name, jobDeploymentStatus=deployment, endTime=now(), **fields)

    def _start_cluster(self, item: dict[str, Any]) -> None:
        name, cluster = item["metadata"]["name"], item["status"]["rayClusterName"]
        template = item["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        ray = self._spare.pop() if self._spare else Ray(self._environment)
        self.heads[name] = Head(template, ray)
        owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": name, "uid": item["metadata"]["uid"]}
        labels = {**template["metadata"]["labels"], CLUSTER: cluster, TYPE: "head"}
        metadata = {"name": f"{name}-head", "labels": labels, "ownerReferences": [owner]}
        spec = {**template["spec"], **({"nodeName": self._node} if self._node else {})}
        self._kube.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def _end_cluster(self, name: str) -> None:
        head = self.heads.pop(name)
        head.end()
        if head.ray.killed:
            head.ray.end()
        else:
            self._spare.append(head.ray)
        with suppress(RingflowError):
            path = self._kube._path(PODS, f"{name}-head")
            self._kube._call("DELETE", path, json={"gracePeriodSeconds": 0}, missing=True)
