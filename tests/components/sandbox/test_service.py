"""The HTTP service as SandboxFusion's clients use it, and the command that starts it."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from components.sandbox import Sandbox
from components.sandbox.languages import available_languages
from components.sandbox.service import Service


@pytest.fixture(scope="module")
def url():
    with Sandbox(workers=1, max_waiting=2) as pool, Service(pool, 0, wait_s=30) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()
        thread.join()


def post(url: str, **request) -> httpx.Response:
    return httpx.post(f"{url}/run_code", json={"language": "python", **request}, timeout=60)


def test_a_program_that_ends_well(url):
    body = post(url, code="print(input()*2)", stdin="ab", compile_timeout=5, run_timeout=5, memory_limit_MB=256).json()
    run = body["run_result"]
    assert (body["status"], body["message"], body["compile_result"]) == ("Success", "", None)
    assert (run["status"], run["return_code"], run["stdout"], run["stderr"]) == ("Finished", 0, "abab\n", "")
    assert run["execution_time"] > 0
    assert body["ringflow"] == {"verdict": "accepted", "tier": "strict", "language": "python"}


@pytest.mark.parametrize(
    ("code", "status", "return_code", "verdict"),
    [
        ("raise SystemExit(3)", "Finished", 3, "runtime-error"),
        ("while True: pass", "TimeLimitExceeded", None, "time-limit"),
        ("import os\nos.kill(os.getpid(), 11)", "Finished", -11, "runtime-error"),
        ("while True: print('x' * 65536)", "Finished", -25, "output-limit"),
        ("import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)", "Finished", -31, "security-violation"),
        ("x = bytearray(1 << 30)", "Finished", 1, "memory-limit"),
    ],
)
def test_programs_that_fail(url, code, status, return_code, verdict):
    body = post(url, code=code, run_timeout=1, memory_limit_MB=128).json()
    assert body["status"] == "Failed"
    assert (body["run_result"]["status"], body["run_result"]["return_code"]) == (status, return_code)
    assert body["ringflow"]["verdict"] == verdict


def test_files_in_and_out(url):
    code = "open('out/b.bin','wb').write(open('a.bin','rb').read()[::-1])"
    files = {"a.bin": base64.b64encode(b"\x00\xff\x01").decode(), "out/keep": "", "none": None}
    body = post(url, code=code, files=files, fetch_files=["out/b.bin", "/etc/passwd", "../../etc/passwd"]).json()
    assert body["status"] == "Success", body
    assert {name: base64.b64decode(text) for name, text in body["files"].items()} == {"out/b.bin": b"\x01\xff\x00"}


def test_compiled_languages(url):
    if "cpp" not in available_languages():
        pytest.skip("g++ is not installed")
    good = post(url, language="cpp", code='#include <cstdio>\nint main(){puts("hi");}', compile_timeout=60).json()
    assert good["status"] == "Success"
    assert good["compile_result"]["return_code"] == 0
    assert good["run_result"]["stdout"] == "hi\n"
    bad = post(url, language="cpp", code="int main({", compile_timeout=60).json()
    assert (bad["status"], bad["compile_result"]["return_code"], bad["run_result"]) == ("Failed", 1, None)
    assert "error" in bad["compile_result"]["stderr"]


@pytest.mark.parametrize(
    "request_",
    [{}, {"code": 1}, {"code": "", "run_timeout": -1}, {"code": "", "files": {"a": "?"}},
     {"code": "", "files": {"../a": ""}}, {"code": "", "language": "brainfuck"}],
)  # fmt: skip
def test_wrong_requests_are_refused(url, request_):
    answer = post(url, **request_)
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert httpx.get(f"{url}/nothing").status_code == 404
    assert httpx.post(f"{url}/nothing", json={}).status_code == 404


def test_a_missing_language_is_a_sandbox_error(url, monkeypatch):
    from components.sandbox import languages

    monkeypatch.setattr(languages, "find_tool", lambda tool: None)
    body = post(url, language="lua", code="print(1)").json()
    assert body["status"] == "SandboxError"
    assert "lua" in body["message"]
    listed = {row["language"]: row["available"] for row in httpx.get(f"{url}/languages").json()}
    assert listed["python"]
    assert not listed["lua"]


def test_a_full_queue_is_504_and_the_rest_is_answered(url):
    codes = []

    def one() -> None:
        codes.append(post(url, code="import time; time.sleep(0.3)").status_code)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 504}
    assert httpx.get(f"{url}/healthz").json()["waiting"] == 0


def test_the_command_serves_and_ends_clean(tmp_path):
    command = [sys.executable, "-m", "flows.cli", "sandbox", "serve", "--port", "0", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "tier strict" in line
        assert (
            httpx.post(line.split()[0], json={"code": "print(1)", "language": "python"}, timeout=60).json()["status"]
            == "Success"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
