"""What a run shows in the Prefect UI besides its states: a page with stages and links, and the scores so far.

Both are artifacts of the flow run, made once and then kept up to date while the run goes on, by a thread of their own:
no stage waits for them. Decoration only: a request that fails is logged and forgotten; results and states do not go
this way.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.failures import RingflowError
from components.redact import redacted
from flows.board import SYMBOLS
from flows.prefect_api import ask
from flows.result import advice
from tasks.board import FINAL, Line, Lines, StageState

log = logging.getLogger(__name__)

POST_EVERY_S = 5.0
ERROR_CHARACTERS, CELL_CHARACTERS = 2000, 80


class RunPage(Lines):
    """A board shown in Prefect. A context manager: the last state is posted when it ends.

    Args:
        outcomes: what became of each node so far (tasks.session); read, never changed.
        links: asked for whenever the page is made: {text: URL}, as far as known.
    """

    def __init__(
        self,
        run_id: str,
        run_name: str,
        nodes: Iterable[str],
        outcomes: Mapping[str, Mapping[str, Any]],
        links: Callable[[], Mapping[str, str]],
    ) -> None:
        super().__init__(nodes)
        self._run_id, self._run_name, self._outcomes, self._links = run_id, run_name, outcomes, links
        self._verdict = "running"
        self._posted: dict[str, tuple[str, Any]] = {}
        self._changed, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._pump, name="run page", daemon=True)

    def state(self, node: str, state: StageState, text: str = "") -> None:
        super().state(node, state, text)
        self._changed.set()

    def finish(self, verdict: str) -> None:
        """verdict: how the run ended, in a line. Call it when links and outcomes are complete."""
        self._verdict = verdict

    def __enter__(self) -> RunPage:
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._changed.set()
        self._thread.join(timeout=20)

    def _pump(self) -> None:
        warned = False
        while True:
            self._changed.wait(POST_EVERY_S)  # progress alone is shown that often
            last = self._stop.is_set()
            self._changed.clear()
            try:
                self._post()
            except RingflowError as error:
                if not warned:
                    log.warning("the run's page is not shown in Prefect: %s", error)
                warned = True
            if last:
                return
            self._stop.wait(1.0)  # several changes at once are one request

    def _post(self) -> None:
        links = dict(self._links())
        page = run_page(self._run_name, self._verdict, self.snapshot(), self._outcomes, links)
        self._put("run", "markdown", page, f"Stages and links of {self._run_name}")
        if rows := score_rows(self._outcomes):
            self._put("scores", "table", json.dumps(rows), "Held-out scores in %, after every stage so far")

    def _put(self, key: str, kind: str, data: str, description: str) -> None:
        """Makes the artifact, or changes the one made before; the same content is not sent twice."""
        artifact, known = self._posted.get(key, ("", None))
        data = redacted(data)
        if data == known:
            return
        if artifact:
            ask("PATCH", f"/artifacts/{artifact}", {"data": data})
        else:
            body = {"key": key, "type": kind, "data": data, "description": description, "flow_run_id": self._run_id}
            artifact = ask("POST", "/artifacts/", body)["id"]
        self._posted[key] = (artifact, data)


def run_page(
    run_name: str,
    verdict: str,
    lines: Mapping[str, Line],
    outcomes: Mapping[str, Mapping[str, Any]],
    links: Mapping[str, str],
) -> str:
    """Markdown: links, then a table over the stages, then every failure with what to do."""
    done = sum(line.state in FINAL for line in lines.values())
    parts = [f"# {run_name}", "", f"{done} of {len(lines)} stages: {verdict}", ""]
    parts += [" · ".join(f"[{text}]({url})" for text, url in links.items() if url.startswith("http")), ""]
    parts += ["| stage | state | time | |", "|---|---|---:|---|"]
    for node, line in lines.items():
        seconds = f"{line.seconds:.0f} s" if line.began is not None else ""
        state = f"{SYMBOLS[line.state]} {line.state}"
        if line.state == "running" and line.total > 0:
            state += f" {100 * min(line.done / line.total, 1):.0f} %"
        parts.append(f"| {node} | {state} | {seconds} | {_cell(line.text)} |")
    for node, outcome in outcomes.items():
        if outcome["state"] == "failed":
            error, way_out = str(outcome["error"]), advice(outcome.get("kind", ""))
            parts += ["", f"## {node} failed", "", _quoted(error), "", f"**What to do.** {way_out}"]
    return "\n".join(parts)


def score_rows(outcomes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per evaluated stage: {"after": stage, benchmark: percent}."""
    rows = []
    for node, outcome in list(outcomes.items()):
        ref = outcome.get("ref")
        if ref is not None and ref.kind == "evaluation":
            scores = {name: round(100 * value, 1) for name, value in ref.summary.items() if isinstance(value, float)}
            rows.append({"after": node.removeprefix("evaluate-"), **scores})
    return rows


def _cell(text: str) -> str:
    line = text.replace("|", "/").replace("\n", " ")
    return line if len(line) <= CELL_CHARACTERS else line[: CELL_CHARACTERS - 1] + "…"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text[:ERROR_CHARACTERS].splitlines())


def tags_of(loaded: Any, flow_run: Any, session_url: str, code: Mapping[str, str]) -> dict[str, str]:
    """The tags by which people find a pipeline run in MLflow."""
    tags = {
        "prefect.flow_run_id": str(flow_run.id),
        "prefect.flow_run_name": flow_run.name,
        "prefect.url": session_url,
        "ringflow.recipe": loaded.recipe.name,
        "ringflow.seed": str(loaded.recipe.seed),
        "ringflow.overrides": " ".join(loaded.overrides),
        **code,
    }
    return {name: value for name, value in tags.items() if value}
