"""The metrics of a process, by name. Without an endpoint (components.telemetry.endpoint) nothing is kept or imported.

Names and units follow Prometheus: base units, `_total` for what only grows. Labels have few values: never a prompt, a
path or a fingerprint. The dashboard infra/grafana/ringflow.json queries these names, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """labels: their names. live: read when Prometheus asks, from the functions given to `watch`."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    live: bool = False


SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

METRICS: Mapping[str, Metric] = {
    "ringflow_step": Metric("gauge", "Last step of a stage", ("stage",)),
    "ringflow_step_seconds": Metric("gauge", "Wall time of the last step", ("stage",)),
    "ringflow_step_part_seconds": Metric("gauge", "Wall time of a part of the last step", ("stage", "part")),
    "ringflow_tokens_per_second": Metric("gauge", "Response (RL) or training tokens of the last step", ("stage",)),
    "ringflow_reward_mean": Metric("gauge", "Mean reward of the last step", ("stage",)),
    "ringflow_reward_error_ratio": Metric("gauge", "Rewards that the machine failed to give", ("stage",)),
    "ringflow_mismatch_kl": Metric("gauge", "KL of engine and trainer on the drawn tokens, nats", ("stage",)),
    "ringflow_mismatch_mean_abs_dlogp": Metric("gauge", "Mean distance of the two log-probs, nats", ("stage",)),
    "ringflow_mismatch_max_abs_dlogp": Metric("gauge", "Largest distance of the two log-probs, nats", ("stage",)),
    "ringflow_staleness_mean_steps": Metric("gauge", "Mean age of the weights that drew a token", ("stage",)),
    "ringflow_response_tokens_mean": Metric("gauge", "Mean length of a response", ("stage",)),
    "ringflow_response_truncated_ratio": Metric("gauge", "Responses that hit the length limit", ("stage",)),
    "ringflow_loss": Metric("gauge", "Training loss of the last step", ("stage",)),
    "ringflow_gradient_norm": Metric("gauge", "Gradient norm of the last step, before clipping", ("stage",)),
    "ringflow_stages_total": Metric("counter", "Stages that ended: done, reused, failed, stopped", ("state",)),
    "ringflow_sandbox_programs_total": Metric("counter", "Programs by language and verdict", ("language", "verdict")),
    "ringflow_sandbox_program_seconds": Metric("histogram", "A program with all its tests, waiting included"),
    "ringflow_sandbox_waiting": Metric("gauge", "Programs that wait for a worker", live=True),
    "ringflow_sandbox_workers": Metric("gauge", "Workers of the open sandboxes", live=True),
    "ringflow_store_bytes_total": Metric("counter", "Bytes to and from the store", ("direction",)),
    "ringflow_store_requests_total": Metric("counter", "Objects written and read", ("direction",)),
    "ringflow_store_retries_total": Metric("counter", "Requests tried again after an answer that was an error"),
    "ringflow_store_errors_total": Metric("counter", "Requests that failed for good"),
}

_recording: Recorder | None = None
_watched: dict[str, Callable[[], float]] = {}


def listening() -> bool:
    """Whether anybody may ask for the metrics: what is only made for them need not be made otherwise."""
    return _recording is not None


def add(name: str, amount: float = 1.0, **labels: str) -> None:
    """Counts; free of cost while nobody listens."""
    if (recorder := _recording) is not None:
        recorder.of(name, labels).inc(amount)


def put(name: str, value: float, **labels: str) -> None:
    """Sets a gauge."""
    if (recorder := _recording) is not None:
        recorder.of(name, labels).set(value)


def took(name: str, seconds: float, **labels: str) -> None:
    """One duration of a histogram."""
    if (recorder := _recording) is not None:
        recorder.of(name, labels).observe(seconds)


def watch(name: str, read: Callable[[], float]) -> None:
    """`read` gives a live gauge its value when it is asked for; it must be quick and thread-safe."""
    _watched[name] = read


class Recorder:
    """Holds the values of one process. Use `record`; tests read `registry`."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._known: dict[str, Any] = {}
        for name, metric in METRICS.items():
            if metric.live:
                continue
            if metric.kind == "histogram":
                made: Any = Histogram(name, metric.help, metric.labels, registry=self.registry, buckets=SECONDS)
            else:
                kind = Counter if metric.kind == "counter" else Gauge
                made = kind(name, metric.help, metric.labels, registry=self.registry)
            self._known[name] = made
        self.registry.register(self)

    def of(self, name: str, labels: Mapping[str, str]) -> Any:
        """KeyError for a name that is not in METRICS: it would be in no dashboard."""
        known = self._known[name]
        return known.labels(**labels) if labels else known

    def collect(self) -> Iterator[Any]:
        """The live gauges, as prometheus_client asks for them."""
        from prometheus_client.core import GaugeMetricFamily

        for name, read in list(_watched.items()):
            family = GaugeMetricFamily(name, METRICS[name].help)
            family.add_metric([], float(read()))
            yield family


def record(recorder: Recorder | None) -> None:
    """From now on values go to `recorder`; None: nowhere."""
    global _recording
    _recording = recorder
