"""What a person does and sees in a browser: the form starts a run, and its pages say what became of it.

Real Chromium, real Prefect and MLflow, the worker of the stack. `make browser` installs Chromium.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import prefect_api

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
PATIENCE_S = 120

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `make browser` installs it (root, Debian)"),
]


@pytest.fixture(scope="module")
def page(stack) -> Iterator:
    """A page of a headless browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        # Chromium's own sandbox refuses root; the pages are those of our servers on loopback.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            opened = browser.new_page(viewport={"width": 1300, "height": 1800})
            opened.set_default_timeout(PATIENCE_S * 1000)
            yield opened
        finally:
            browser.close()


@pytest.fixture(scope="module")
def form(stack) -> str:
    """URL of the form of ring/recipe, after `ringflow deploy`."""
    command = [sys.executable, "-m", "flows.cli", "deploy", "--json"]
    done = subprocess.run(command, cwd=ROOT, timeout=300, check=True, capture_output=True, text=True)
    return next(entry["form"] for entry in json.loads(done.stdout) if entry["deployment"] == "ring/recipe")


def choose(page, title: str, *options: str) -> None:
    """Opens the list below a title of the form and picks entries."""
    box = page.locator(".p-label").filter(has=page.get_by_text(f"{title} (Optional)", exact=True)).last
    box.locator(".p-select-button__icon").click()
    for option in options:
        page.locator(".p-select-option").filter(has=page.get_by_text(option, exact=True)).first.click()
    page.keyboard.press("Escape")


def wait_for_end(run_id: str) -> dict:
    deadline = time.monotonic() + 3 * PATIENCE_S
    while (run := prefect_api.get_run(run_id))["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        assert time.monotonic() < deadline, f"still {run['state_name']}"
        time.sleep(1)
    return run


def artifacts(run_id: str) -> dict[str, str]:
    """{key: data} of the pages at a run."""
    found = prefect_api.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    return {entry["key"]: entry["data"] for entry in found}


def test_form_starts_a_run_and_its_links_open(page, form: str) -> None:
    page.goto(form)
    choose(page, "Recipe", "smoke")
    choose(page, "Only these stages", "corpus")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/runs/flow-run/|/deployments/deployment/[^/]*$"))
    newest = prefect_api.ask("POST", "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20})
    run = next(run for run in newest if (run["parameters"].get("request") or {}).get("only") == ["corpus"])
    assert run["parameters"]["request"]["recipe"] == "smoke"
    run = wait_for_end(run["id"])
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["name"].startswith("smoke-")
    assert [task["name"] for task in prefect_api.task_runs(run["id"])] == ["corpus"]

    page.goto(prefect_api.run_url(run["id"]))
    page.get_by_text(run["name"]).first.wait_for()
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(f"Stages and links of {run['name']}"[:30]).first.wait_for()
    links = dict(re.findall(r"\[([^\]]+)\]\((http[^)]+)\)", artifacts(run["id"])["run"]))
    assert links.keys() == {"MLflow", "Data Docs", "Run report"}
    page.goto(links["Data Docs"])
    page.frame_locator("iframe").get_by_text("Data gates").first.wait_for()
    page.goto("about:blank")  # the next address differs only behind its #
    page.goto(links["Run report"])
    page.frame_locator("iframe").get_by_text(run["name"]).first.wait_for()


def test_a_failed_run_says_why_and_what_to_do(page, form: str) -> None:
    deployment = prefect_api.ask("GET", "/deployments/name/stage/stage")["id"]
    request = {"recipe": "smoke", "stage": "sft", "overrides": ["corpus.sources.0.sft=64"]}
    body = {"parameters": {"request": request}}
    run = wait_for_end(prefect_api.ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])
    assert run["state_type"] == "FAILED"
    message = run["state"]["message"]
    assert "corpus: this stage is not finished" in message
    assert f"ringflow rerun {run['name']}" in message
    page.goto(prefect_api.run_url(run["id"]))
    page.get_by_text("Details", exact=True).first.click()
    page.get_by_text("this stage is not finished").first.wait_for()
    text = artifacts(run["id"])["run"]
    assert "## corpus failed" in text
    assert "**What to do.**" in text
