"""The endpoint: off by default and then free, on 127.0.0.1 alone, gone with its last user."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.failures import BadInput
from components.telemetry import endpoint, metrics
from components.telemetry.endpoint import VARIABLE, Endpoint, metrics_served


def scraped(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """{(sample, labels): value} as Prometheus reads it."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_the_variable_nothing_is_kept_or_imported() -> None:
    code = (
        "import sys\n"
        "from components.telemetry import metrics\n"
        "from components.telemetry.endpoint import metrics_served\n"
        "with metrics_served() as served:\n"
        "    metrics.add('ringflow_stages_total', state='done')\n"
        "    metrics.put('ringflow_step', 3, stage='sft')\n"
        "    metrics.took('ringflow_sandbox_program_seconds', 1.0)\n"
        "    assert served is None and not metrics.listening()\n"
        "assert 'prometheus_client' not in sys.modules and 'http.server' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_values_are_served_on_loopback_and_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    with metrics_served() as served:
        assert served._server.server_address[0] == "127.0.0.1"
        metrics.add("ringflow_stages_total", state="done")
        metrics.add("ringflow_stages_total", 2, state="done")
        metrics.put("ringflow_step", 7, stage="sft")
        metrics.took("ringflow_sandbox_program_seconds", 0.2)
        found = scraped(served.url)
        assert found["ringflow_stages_total", (("state", "done"),)] == 3
        assert found["ringflow_step", (("stage", "sft"),)] == 7
        assert found["ringflow_sandbox_program_seconds_bucket", (("le", "0.3"),)] == 1
        assert found["ringflow_sandbox_program_seconds_bucket", (("le", "0.1"),)] == 0
        with metrics_served() as again:
            assert again is served, "one endpoint a process"
        assert scraped(served.url) == found, "the other user goes on"
        url = served.url
    assert not metrics.listening()
    with pytest.raises(OSError):  # noqa: PT011
        scraped(url)
    assert endpoint._shared is None


def test_a_taken_port_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv(VARIABLE, str(taken.getsockname()[1]))
        with caplog.at_level(logging.WARNING), metrics_served() as served:
            assert served is None
            metrics.add("ringflow_stages_total", state="done")
    assert VARIABLE in caplog.text
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize("text", ["yes", "70000", "-1", "80.5"])
def test_what_is_no_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(BadInput, match=VARIABLE), metrics_served():
        pass


def test_names_are_those_of_the_table_and_live_gauges_are_read_when_asked() -> None:
    served = Endpoint(free_port())
    try:
        with pytest.raises(KeyError):
            metrics.add("ringflow_unheard_of_total")
        size = [1.0]
        metrics.watch("ringflow_sandbox_waiting", lambda: size[0])
        assert scraped(served.url)["ringflow_sandbox_waiting", ()] == 1
        size[0] = 5
        assert scraped(served.url)["ringflow_sandbox_waiting", ()] == 5
    finally:
        served.close()
        metrics._watched.pop("ringflow_sandbox_waiting")
        from components.sandbox import pool

        pool.watch_open()


def test_counters_end_in_total_and_units_are_base_units() -> None:
    for name, metric in metrics.METRICS.items():
        assert name.startswith("ringflow_")
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert not name.endswith(("_ms", "_minutes", "_percent", "_mb")), name
        assert metric.help
        assert not (metric.live and metric.labels)
