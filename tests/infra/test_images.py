"""Container images, the compose file and the bucket policy: pinned, without root, without secrets, least privilege."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from infra.stack.profile import ENDPOINTS, MLFLOW_BUCKET, QUIET, STORE_BUCKET
from tests.infra.cluster_policy import SECRET, pinned

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "infra/images"
COMPOSE = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (IMAGES / name).read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["Containerfile.cpu", "Containerfile.gpu"])
def test_images_are_staged_pinned_and_without_root(name):
    steps = instructions(name)
    stages = [rest for word, rest in steps if word == "FROM"]
    assert len(stages) >= 2
    assert " AS " not in stages[-1]
    assert "@sha256:" in stages[-1]  # what is shipped stands on one exact image
    assert all(pinned(each.split()[0]) for each in stages)
    last = steps[len(steps) - next(n for n, (word, _) in enumerate(reversed(steps)) if word == "FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert not any(re.search(r"\b(pip|uv|curl|wget)\b", rest) for word, rest in last if word == "RUN")
    assert not any(SECRET.search(rest) for word, rest in steps if word in ("ENV", "ARG"))
    assert "HF_HUB_OFFLINE=1" in " ".join(rest for word, rest in last if word == "ENV")


@pytest.mark.parametrize("name", ["Containerfile.cpu", "Containerfile.gpu"])
def test_every_package_is_checked_against_a_hash(name):
    runs = [part.strip() for word, rest in instructions(name) if word == "RUN" for part in rest.split("&&")]
    installs = [each for each in runs if re.search(r"\bpip (install|sync)\b", each)]
    assert installs
    for each in installs:
        assert "--require-hashes" in each or ("--offline" in each and "--no-deps" in each)


@pytest.mark.parametrize("name", ["Containerfile.cpu", "Containerfile.gpu"])
def test_everything_that_is_copied_exists_and_is_in_the_context(name):
    let_in = [line[1:] for line in (IMAGES / f"{name}.dockerignore").read_text().splitlines() if line[0] == "!"]
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in let_in), source


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M))


def test_locks_agree_with_the_lock_of_the_project():
    ours, servers, kubernetes, gpu = (
        pins(path)
        for path in (
            ROOT / "requirements.lock",
            *(IMAGES / name for name in ("servers.lock", "kubernetes.lock", "requirements-gpu.lock")),
        )
    )
    for more in (servers, kubernetes):
        assert {name: ours[name] for name in more if name in ours} == {k: v for k, v in more.items() if k in ours}
    assert {k: v for k, v in kubernetes.items() if k in servers} == {k: servers[k] for k in kubernetes if k in servers}
    assert "prefect-kubernetes" not in ours
    # What talks to the servers, or reads what another image wrote, must be the same in both images.
    for name in ("ray", "prefect", "mlflow", "megatron-core", "safetensors", "tokenizers", "transformers"):
        assert gpu[name] == ours[name]
    assert gpu["torch"] == ours["torch"].removesuffix("+cpu")
    for path in (IMAGES / name for name in ("servers.lock", "kubernetes.lock", "requirements-gpu.lock")):
        for package in re.split(r"^(?=\S+==)", path.read_text(), flags=re.M)[1:]:
            assert "--hash=sha256:" in package, package[:80]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_services_are_closed_and_bounded(name):
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert {"mem_limit", "cpus", "pids_limit", "healthcheck"} <= set(service)
    assert pinned(service["image"])
    assert "@sha256:" in service["image"] or service["pull_policy"] == "never"
    assert all(each.startswith("127.0.0.1:") for each in service.get("ports", ()))
    for each in service["security_opt"]:
        if each.startswith("seccomp="):
            assert (ROOT / "infra" / each.removeprefix("seccomp=")).is_file()
    for each in service.get("depends_on", ()):
        assert each in SERVICES
    for each in service.get("volumes", ()):
        assert each.split(":")[0] in COMPOSE["volumes"]


def test_compose_holds_no_secret_and_its_variables_are_documented():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable):
                assert re.search(r"\$\{\w+:\?\}", value), f"{name}: {variable}"
    documented = (ROOT / "docs/cluster.md").read_text()
    for variable in set(re.findall(r"\$\{(\w+)", (ROOT / "infra/compose.yaml").read_text())):
        assert f"{variable}=" in documented, variable


def test_compose_clients_have_the_cluster_profile_and_a_ray_node():
    for name in ("ray", "worker"):
        assert set(ENDPOINTS) <= set(SERVICES[name]["environment"])
        assert QUIET.items() <= SERVICES[name]["environment"].items()
    worker = SERVICES["worker"]
    assert {worker[each] for each in ("network_mode", "ipc", "pid")} == {"service:ray"}
    assert worker["volumes"] == SERVICES["ray"]["volumes"]
    assert COMPOSE["networks"]["servers"]["internal"] is True


def test_compose_names_the_drivers_that_are_installed():
    """Without one, SQLAlchemy 2.1 takes psycopg 3 for PostgreSQL."""
    schemes = set(re.findall(r"(postgresql[+\w]*)://", (ROOT / "infra/compose.yaml").read_text()))
    assert schemes == {"postgresql+asyncpg", "postgresql+psycopg2"}
    assert {"asyncpg", "psycopg2-binary"} <= pins(ROOT / "requirements.lock").keys()


def test_compose_gives_each_bucket_its_own_key():
    identities = json.loads(COMPOSE["configs"]["identities"]["content"])["identities"]
    assert {each["name"] for each in identities} == {STORE_BUCKET, MLFLOW_BUCKET}
    for each in identities:
        assert {action.split(":")[0] for action in each["actions"]} == {"Read", "Write", "List"}
        assert {action.split(":")[1] for action in each["actions"]} == {each["name"]}
    assert len({each["credentials"][0]["accessKey"] for each in identities}) == 2


def test_bucket_policy_allows_objects_of_one_bucket_and_nothing_else():
    policy = json.loads((ROOT / "infra/bucket_policy.json").read_text())
    allowed: dict[str, set[str]] = {}
    for statement in policy["Statement"]:
        if statement["Effect"] == "Allow":
            allowed.setdefault(statement["Resource"], set()).update(statement["Action"])
    bucket = f"arn:aws:s3:::{STORE_BUCKET}"
    assert set(allowed) == {bucket, f"{bucket}/*"}
    assert not any("*" in action for actions in allowed.values() for action in actions)
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= allowed[f"{bucket}/*"]
    assert not any(
        re.search(r"Policy|Acl|CreateBucket|DeleteBucket|Versioning", a) for s in allowed.values() for a in s
    )
    (denied,) = [each for each in policy["Statement"] if each["Effect"] == "Deny"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
