"""report.html: what was removed and why, readable by a person, one file that needs nothing else.

Counts per benchmark and per split, then findings side by side with the agreeing words marked.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from components.data.decontaminate.engine import DecontaminationResult
from components.data.decontaminate.evidence import Evidence, Span
from components.recipe.data import DecontaminateConfig

EXAMPLES_PER_GROUP = 20
SHOWN_CHARACTERS = 1500

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--mark:#ffd54a99}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}table{border-collapse:collapse;margin:.6rem 0}
th,td{border:1px solid var(--line);padding:.25rem .6rem;text-align:right}th:first-child,td:first-child{text-align:left}
.pair{border:1px solid var(--line);border-radius:6px;margin:.8rem 0;padding:.6rem .8rem}
.pair header{font-size:.85rem;opacity:.8;overflow-wrap:anywhere}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1rem}@media(max-width:700px){.sides{grid-template-columns:1fr}}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;margin:.3rem 0}
mark{background:var(--mark);color:inherit}code{overflow-wrap:anywhere}.level{font-weight:600}
"""


def write_report(path: Path, result: DecontaminationResult, config: DecontaminateConfig) -> None:
    """Writes the report of one decontamination."""
    splits = {name: counts for name, counts in result.counts.items() if name not in ("benchmarks", "semantic")}
    levels = ("exact", "contained", "ngram", "semantic")
    body = [
        "<h1>Decontamination report</h1>",
        f"<p>{_sentence(splits)} Index <code>{result.fingerprint[:16]}</code>; {config.ngram}-grams, coverage at least "
        f"{config.min_coverage:g}; semantic {_semantic(config)}.</p>",
        "<h2>By split</h2>",
        _table(
            ("split", "records", "kept", "removed", *levels, "for review", "template siblings (kept)"),
            (
                (
                    name,
                    counts["records"],
                    counts["kept"],
                    counts["removed"],
                    *(counts.get(f"removed:{level}", 0) for level in levels),
                    counts["review"],
                    counts["template"],
                )
                for name, counts in splits.items()
            ),
        ),
        "<h2>By benchmark</h2>",
        _table(
            ("benchmark", "items", "items found", "records removed", "for review", "template siblings (kept)"),
            (
                (name, row["items"], row["hit_items"], row["removed"], row["review"], row["template"])
                for name, row in result.counts["benchmarks"].items()
            ),
        ),
        _section("Removed", "Text of a benchmark item, or its meaning, stands in the record.", result.removed),
        _section("For review", "Kept: near a benchmark item in meaning, below the removal threshold.", result.review),
        _section("Template siblings", "Kept: the same words with other numbers are another problem.", result.templates),
    ]
    document = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Decontamination report</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(document, encoding="utf-8", errors="replace")


def _sentence(splits: dict[str, dict]) -> str:
    records = sum(counts["records"] for counts in splits.values())
    removed = sum(counts["removed"] for counts in splits.values())
    return f"{removed:,} of {records:,} records removed."


def _semantic(config: DecontaminateConfig) -> str:
    if not config.semantic:
        return "level off"
    return f"removal from cosine {config.semantic_threshold:g}, review from {config.semantic_review:g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else html.escape(str(value))

    lines = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{lines}</table>"


def _section(title: str, meaning: str, findings: Sequence[Evidence]) -> str:
    if not findings:
        return f"<h2>{title}</h2><p>None.</p>"
    groups: dict[tuple[str, str], list[Evidence]] = defaultdict(list)
    for finding in findings:
        groups[finding.benchmark, finding.level].append(finding)
    parts = [f"<h2>{title}</h2><p>{meaning}</p>"]
    for (benchmark, level), members in sorted(groups.items()):
        shown = members[:EXAMPLES_PER_GROUP]
        rest = f", {len(shown)} shown; all are in evidence.parquet" if len(members) > len(shown) else ""
        inner = "".join(map(_pair, shown))
        summary = f"<summary>{html.escape(benchmark)}, {level}: {len(members)}{rest}</summary>"
        parts.append(f"<details open>{summary}{inner}</details>")
    return "".join(parts)


def _pair(finding: Evidence) -> str:
    return (
        f"<div class=pair><header><span class=level>{finding.level} {finding.score:.2f}</span> · {finding.split} "
        f"{html.escape(finding.field)} <code>{html.escape(finding.item)}</code> · {html.escape(finding.benchmark)} "
        f"<code>{html.escape(finding.benchmark_item)}</code></header><div class=sides>"
        f"<div>record<pre>{_marked(finding.text, finding.spans)}</pre></div>"
        f"<div>benchmark item<pre>{_marked(finding.benchmark_text, finding.benchmark_spans)}</pre></div></div></div>"
    )


def _marked(text: str, spans: Sequence[Span]) -> str:
    """HTML of the text with the spans marked; a long text starts a little before its longest span."""
    longest = max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
    start = max(0, longest[0] - SHOWN_CHARACTERS // 3) if len(text) > SHOWN_CHARACTERS else 0
    end = min(len(text), start + SHOWN_CHARACTERS)
    parts, position = ["…" if start else ""], start
    for low, high in sorted(spans):
        low, high = max(low, position), min(high, end)
        if low < high:
            parts += [html.escape(text[position:low]), "<mark>", html.escape(text[low:high]), "</mark>"]
            position = high
    parts += [html.escape(text[position:end]), "…" if end < len(text) else ""]
    return "".join(parts)
