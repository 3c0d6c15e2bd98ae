"""report.html: what was removed and why, what was kept and why, readable by a person, one file that needs nothing else.

Counts per benchmark and per split, then findings side by side with the agreeing words marked.
"""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from components.data.decontaminate.evidence import LEVELS, Evidence, Span
from components.recipe.data import DecontaminateConfig

EXAMPLES_PER_GROUP = 20
SHOWN_CHARACTERS = 1500

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--mark:#ffd54a99}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}table{border-collapse:collapse;margin:.6rem 0}
th,td{border:1px solid var(--line);padding:.25rem .6rem;text-align:right}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere;min-width:12rem}
.pair{border:1px solid var(--line);border-radius:6px;margin:.8rem 0;padding:.6rem .8rem}
.pair header{font-size:.85rem;opacity:.8;overflow-wrap:anywhere}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1rem}@media(max-width:700px){.sides{grid-template-columns:1fr}}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;margin:.3rem 0}
table{display:block;overflow-x:auto}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}
dt{font-weight:600}dd{margin:0}mark{background:var(--mark);color:inherit}code{overflow-wrap:anywhere}.level{font-weight:600}
.none{opacity:.35}
"""


_LEVEL_MEANING = {
    "exact": "the same text after normalisation",
    "contained": "the whole item inside a longer text",
    "ngram": "enough of the item's own n-grams, confirmed by alignment",
    "lcs": "most of the item in order, with edits throughout",
    "minhash": "the item's phrases in another order, the same numbers",
    "code": "the item's program under other names",
    "semantic": "the item in other words: embeddings agree, and so do the numbers",
}


class Examples:
    """The first findings of every kind, benchmark and level, so that a report of any run stays small."""

    def __init__(self, findings: Iterable[Evidence] = ()) -> None:
        self.counts: Counter = Counter()
        self.shown: dict[tuple[str, str, str], list[Evidence]] = defaultdict(list)
        for finding in findings:
            self.add(finding)

    def add(self, finding: Evidence) -> None:
        key = (finding.decision, finding.benchmark, finding.level)
        self.counts[key] += 1
        if len(self.shown[key]) < EXAMPLES_PER_GROUP:
            self.shown[key].append(finding)


def write_report(
    path: Path, counts: Mapping[str, dict], examples: Examples, fingerprint: str, config: DecontaminateConfig
) -> None:
    """Writes the report of one decontamination. counts: of engine.DecontaminationResult."""
    splits = {name: row for name, row in counts.items() if name not in ("benchmarks", "semantic")}
    body = [
        "<h1>Decontamination report</h1>",
        f"<p>{_sentence(splits)} Index <code>{fingerprint[:16]}</code>; {config.ngram}-grams, coverage at least "
        f"{config.min_coverage:g}; semantic {_semantic(config)}.</p>",
        "<h2>By split</h2>",
        _table(
            ("split", "records", "kept", "removed", *LEVELS, "for review", "template siblings (kept)"),
            (
                (
                    *(name, row["records"], row["kept"], row["removed"]),
                    *(row.get(f"removed:{level}", 0) for level in LEVELS),
                    *(row["review"], row["template"]),
                )
                for name, row in splits.items()
            ),
        ),
        "<h2>By benchmark</h2>",
        _table(
            ("benchmark", "items", "items found", "records removed", *LEVELS, "for review", "template siblings (kept)"),
            (
                (
                    *(name, row["items"], row["hit_items"], row["removed"]),
                    *(row.get(f"removed:{level}", 0) for level in LEVELS),
                    *(row["review"], row["template"]),
                )
                for name, row in counts["benchmarks"].items()
            ),
        ),
        "<dl>",
        *(f"<dt>{level}</dt><dd>{meaning}</dd>" for level, meaning in _LEVEL_MEANING.items()),
        "</dl>",
        _section("Removed", "The text of a benchmark item, or its meaning, stands in the record.", examples, "removed"),
        _section(
            "Kept, for review",
            "Near a benchmark item in meaning, below what removal asks. A person should read these.",
            examples,
            "review",
        ),
        _section(
            "Kept, template siblings",
            "The same words with other numbers or operators are another problem, so these stay.",
            examples,
            "kept",
        ),
    ]
    document = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Decontamination report</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(document, encoding="utf-8", errors="replace")


def _sentence(splits: Mapping[str, dict]) -> str:
    records = sum(counts["records"] for counts in splits.values())
    removed = sum(counts["removed"] for counts in splits.values())
    return f"{removed:,} of {records:,} records removed."


def _semantic(config: DecontaminateConfig) -> str:
    if not config.semantic:
        return "level off"
    return f"removal from cosine {config.semantic_threshold:g}, review from {config.semantic_review:g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        if isinstance(value, int):
            return f"<td>{value:,}</td>" if value else "<td class=none>0</td>"
        name = str(value)  # a file is called by its name, and says its whole path when asked
        return f'<td title="{html.escape(name)}">{html.escape(name.rpartition("/")[2] or name)}</td>'

    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{lines}</table>"


def _section(title: str, meaning: str, examples: Examples, decision: str) -> str:
    groups = sorted(key for key in examples.shown if key[0] == decision)
    if not groups:
        return f"<h2>{title}</h2><p>None.</p>"
    parts = [f"<h2>{title}</h2><p>{meaning}</p>"]
    for key in groups:
        _, benchmark, level = key
        shown, total = examples.shown[key], examples.counts[key]
        rest = f", {len(shown)} shown; all are in evidence.parquet" if total > len(shown) else ""
        inner = "".join(map(_pair, shown))
        summary = f"<summary>{html.escape(benchmark)}, {level}: {total:,}{rest}</summary>"
        parts.append(f"<details open>{summary}{inner}</details>")
    return "".join(parts)


def _pair(finding: Evidence) -> str:
    # The name of a record of a user's file begins with the file.
    split = "" if finding.item.startswith(finding.split) else f"{html.escape(finding.split)} "
    return (
        f"<div class=pair><header><span class=level>{finding.level} {finding.score:.2f}</span> · {split}"
        f"{html.escape(finding.field)} <code>{html.escape(finding.item)}</code> · {html.escape(finding.benchmark)} "
        f"{finding.benchmark_field} <code>{html.escape(finding.benchmark_item)}</code></header><div class=sides>"
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
