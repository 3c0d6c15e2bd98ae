"""How ringflow finds an API server: the kubeconfigs clusters hand out, and what is refused of them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cluster import kubeconfig
from components.cluster.kubeconfig import find_access
from components.failures import BadInput, InfrastructureError


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    made, key = tmp_path / "crt", tmp_path / "key"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout {key} -out {made}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return made, key


@pytest.fixture
def written(tmp_path: Path, certificate, monkeypatch: pytest.MonkeyPatch):
    def write(user: dict[str, Any], **cluster: Any) -> Path:
        known = {"server": "https://k:6443/", "certificate-authority": "crt"}
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
            "clusters": [{"name": "c", "cluster": known | cluster}],
            "users": [{"name": "u", "user": user}],
        }
        path = tmp_path / "config"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        return path

    return write


def test_tokens_are_read_when_they_are_needed(written, tmp_path: Path) -> None:
    written({"tokenFile": "token"})
    access = find_access()
    assert (access.server, access.namespace) == ("https://k:6443", "ns")
    for token in ("one", "two"):
        (tmp_path / "token").write_text(token + "\n")
        assert access.token() == token
    (tmp_path / "token").unlink()
    with pytest.raises(InfrastructureError, match="token of the service account"):
        access.token()
    written({"token": "three"})
    assert find_access().token() == "three"


def test_certificates_come_as_files_or_inside(written, certificate) -> None:
    data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in zip("ck", certificate, strict=True)}
    written(
        {"client-certificate-data": data["c"], "client-key-data": data["k"]},
        **{"certificate-authority-data": data["c"]},
    )
    assert find_access().token() == ""
    written({"client-certificate": "crt", "client-key": "key"})
    assert len(find_access().tls.get_ca_certs()) == 1


def test_a_program_is_asked_again_when_its_token_runs_out(written, tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        '#!/bin/sh\necho x >> "$COUNT"\ncat <<END\n{"status": {"token": "t$(wc -l < "$COUNT")", '
        '"expirationTimestamp": "$UNTIL"}}\nEND\n'
    )
    program.chmod(0o755)
    about = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}
    for until, tokens in (("2001-01-01T00:00:00Z", ["t1", "t2"]), ("2999-01-01T00:00:00Z", ["t1", "t1"])):
        count = tmp_path / f"count-{until[:4]}"
        env = [{"name": "COUNT", "value": str(count)}, {"name": "UNTIL", "value": until}]
        written({"exec": {**about, "env": env}})
        access = find_access()
        assert [access.token(), access.token()] == tokens
    program.write_text("#!/bin/sh\necho no such account >&2; exit 1\n")
    with pytest.raises(InfrastructureError, match="no such account"):
        find_access().token()
    program.unlink()
    with pytest.raises(BadInput, match="is not installed"):
        find_access().token()


def test_a_pod_has_its_service_account(tmp_path: Path, certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("token", "t"), ("namespace", "ringflow"), ("ca.crt", certificate[0].read_text())):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kubeconfig, "POD", tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    access = find_access()
    assert (access.server, access.namespace, access.token()) == ("https://[fd00::1]:443", "ringflow", "t")


@pytest.mark.parametrize(
    ("user", "cluster", "says"),
    [
        ({"username": "a", "password": "b"}, {}, "passwords and auth-provider"),
        ({}, {"server": "http://k:8080"}, "by https"),
        ({}, {"insecure-skip-tls-verify": True}, "not verified"),
        ({}, {"certificate-authority": "missing"}, "cannot be used"),
        ({"client-certificate": "crt", "client-key": "crt"}, {}, "cannot be used"),
    ],
)
def test_what_is_refused(written, user: dict[str, Any], cluster: dict[str, Any], says: str) -> None:
    written(user, **cluster)
    with pytest.raises(BadInput, match=says):
        find_access()


def test_without_access_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="a service account with its token mounted"):
        find_access()
    (tmp_path / "none").write_text("clusters: []\n")
    with pytest.raises(BadInput, match="not a kubeconfig with a current context"):
        find_access()
