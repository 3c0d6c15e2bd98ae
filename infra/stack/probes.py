"""Is a server doing its work? Each probe asks for real work, returns on success and raises Unhealthy with the reason.

An open port is not enough: SeaweedFS accepts connections seconds before it accepts writes, and a server on a full disk
keeps its port. The S3 probe signs its request (AWS Signature Version 4), so wrong credentials show here too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any

# A proxy from the environment must never see loopback traffic.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Unhealthy(Exception):
    """The server does not do its work; str() is the reason in a few words."""


def request(
    url: str, *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None, timeout_s: float
) -> bytes:
    """One HTTP request; the body of a 2xx answer."""
    try:
        with _opener.open(
            urllib.request.Request(url, data=body, method=method, headers=headers or {}), timeout=timeout_s
        ) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Unhealthy(f"{method} {url} answered {error.code}") from error
    except (OSError, urllib.error.URLError) as error:
        raise Unhealthy(f"{method} {url}: {getattr(error, 'reason', error)}") from error


def http(url: str, *, timeout_s: float) -> None:
    request(url, timeout_s=timeout_s)


def s3(endpoint: str, bucket: str, key_id: str, secret: str, region: str, *, timeout_s: float) -> None:
    """Writes one small object with these credentials."""
    body = b"ok"
    signed = sign("PUT", f"{endpoint}/{bucket}/.health", body, key_id=key_id, secret=secret, region=region)
    request(f"{endpoint}/{bucket}/.health", method="PUT", body=body, headers=signed, timeout_s=timeout_s)


def sign(method: str, url: str, body: bytes, *, key_id: str, secret: str, region: str) -> dict[str, str]:
    """Headers of an S3 request without a query, signed with AWS Signature Version 4."""
    parts = urllib.parse.urlsplit(url)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [method, parts.path, "", *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, digest]
    )
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (now[:8], region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        **{name: value for name, value in headers.items() if name != "host"},
        "authorization": f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}",
    }


def grpc_health(port: int, token: str, *, timeout_s: float) -> None:
    """The standard gRPC health check; Ray's GCS and raylet both serve it."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer: bytes = check(b"", timeout=timeout_s, metadata=(("authorization", f"Bearer {token}"),))
        except grpc.RpcError as error:
            raise Unhealthy(f"gRPC health check on port {port}: {error.code().name}") from error
    if answer != b"\x08\x01":  # field 1 (status), SERVING
        raise Unhealthy(f"gRPC health check on port {port}: not serving")


def worker_online(api: str, pool: str, name: str, since: float, *, timeout_s: float) -> None:
    """The Prefect worker has sent a heartbeat to the server since `since` (seconds of the Unix clock) and is online."""
    answer: list[dict[str, Any]] = json.loads(
        request(
            f"{api}/work_pools/{pool}/workers/filter",
            method="POST",
            body=b"{}",
            headers={"content-type": "application/json"},
            timeout_s=timeout_s,
        )
    )
    for worker in answer:
        beat = worker.get("last_heartbeat_time")
        if worker["name"] != name or worker["status"] != "ONLINE" or beat is None:
            continue
        if datetime.fromisoformat(beat).timestamp() >= since - 1:
            return
    raise Unhealthy(f"no heartbeat in work pool {pool} {time.time() - since:.0f} s after its start")
