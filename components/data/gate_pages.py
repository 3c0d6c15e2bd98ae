"""The pages of the gates: no page asks another machine for anything, and equal data makes equal pages.

Great Expectations' Data Docs take their styles, pictures and index from public servers, so that a cluster without a way
out shows bare text and an empty index; and they name elements at random and show the clock. Theirs are kept without
both, with a small style of our own, and one page of ours has every expectation of every suite, what failed on top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

SHOWN = 80
# Equal data makes equal pages: when they were made stands in the artifact's manifest.
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_OUTSIDE = re.compile(r"<script\b.*?</script>|<(link|img)\b[^>]*https?://[^>]*>|<footer\b.*?</footer>", re.DOTALL)
_PICTURE = re.compile(r"url\(['\"]?https?://[^)]*\)")
_RANDOM = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_CLOCK = re.compile(rf"(?<=>)\d{{8}}T\d{{6}}\.\d{{6}}Z(?=<)|{NO_TIME:%Y-%m-%dT%H:%M:%SZ}")
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#d33;--warn:#b70;--good:#292}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.4rem 0}th,td{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;
vertical-align:top}h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:1.8rem}
.critical{color:var(--bad);font-weight:600}.warning{color:var(--warn);font-weight:600}.passed{color:var(--good)}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}.finding{margin:.5rem 0}
"""
# For Great Expectations' own pages: what needs their scripts is not shown.
_THEIRS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:1rem auto;padding:0 1rem}
nav img,.btn-group,.card.mb-3,.cooltip .top,[data-toggle=collapse]{display:none}
table{border-collapse:collapse;margin:.4rem 0}th,td{border:1px solid #8884;padding:.25rem .6rem;text-align:left}
.badge{border:1px solid #8886;border-radius:4px;padding:0 .3rem;font-size:.85em}ol,ul{padding-left:1.2rem}
.fa-check-circle::before{content:"✔";color:#292}.fa-times::before{content:"✘";color:#d33}
.fa-exclamation-triangle::before{content:"!";color:#b70}
.ge-breadcrumbs{list-style:none;padding:0;display:flex;gap:1rem}h5{font-size:1.1rem;margin:1rem 0 .2rem}
"""


def settle(docs: Path) -> None:
    """Takes scripts, pictures and styles of other servers, advertisement, random names and the clock out of every page
    of a Data Docs site that was built at NO_TIME."""
    for style in sorted(Path(docs).rglob("*.css")):
        style.write_text(_PICTURE.sub("none", style.read_text(encoding="utf-8")), encoding="utf-8")
    for page in sorted(Path(docs).rglob("*.html")):
        names: dict[str, str] = {}
        text = _PICTURE.sub("none", _OUTSIDE.sub("", page.read_text(encoding="utf-8")))
        text = _RANDOM.sub(lambda found: names.setdefault(found[0], str(len(names))), text)  # noqa: B023  used at once
        text = _CLOCK.sub("in the artifact's manifest", text)
        page.write_text(text.replace("</head>", f"<style>{_THEIRS}</style></head>", 1), encoding="utf-8")


def write_index(
    path: Path, results: Mapping[str, Sequence[Mapping[str, Any]]], findings: Sequence[Any], links: Mapping[str, str]
) -> None:
    """One page with everything that was asked.

    Args:
        results: {suite: [{expectation, column, meaning, severity, success, observed}]}, as in results.json.
        findings: of components.data.gates, critical ones first. links: {suite: page beside this one}.
    """
    counts = [f"{sum(map(len, results.values())):,} expectations in {len(results)} suites"]
    for severity in ("critical", "warning"):
        failed = sum(finding.severity == severity for finding in findings)
        counts.append(f"<span class={severity if failed else 'passed'}>{failed} {severity}</span>")
    parts = [f"<h1>Data gates</h1><p>{', '.join(counts)}. A critical one that fails stops the stage.</p>"]
    parts += ["<h2>What failed</h2>" if findings else "<p>Everything passed.</p>"]
    for finding in findings:
        examples = "".join(f"<br><code>{escape(example)}</code>" for example in finding.examples)
        parts.append(
            f"<div class=finding><span class={finding.severity}>{finding.severity}</span> {escape(finding.suite)}: "
            f"{escape(finding.meaning)} (<code>{escape(finding.column or 'the table')}</code>, observed "
            f"{escape(finding.observed)}){examples}</div>"
        )
    for suite, rows in results.items():
        name = escape(suite)
        link = f'<a href="{escape(links[suite])}">{name}</a>' if suite in links else name
        parts += [f"<h2>{link}</h2>", _table(rows)]
    Path(path).write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Data gates</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n",
        encoding="utf-8",
        errors="replace",
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in sorted(rows, key=lambda row: (row["success"], row["severity"] != "critical")):
        state = "passed" if row["success"] else row["severity"]
        cells = (
            row["meaning"],
            row["column"] or "the table",
            row["severity"],
            _short(row["observed"]),
            row["expectation"],
        )
        lines.append(
            f"<tr><td class={state}>{'passed' if row['success'] else 'failed'}</td>"
            + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
            + "</tr>"
        )
    head = "".join(
        f"<th>{name}</th>" for name in ("", "what failing means", "column", "severity", "observed", "expectation")
    )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _short(observed: str) -> str:
    return observed if len(observed) <= SHOWN else f"{observed[:SHOWN]}…"
