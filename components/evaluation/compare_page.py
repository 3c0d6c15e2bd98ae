"""The page of a comparison: a picture, the table of paired differences, the settings, and the items that flipped.

One self-contained file. For each item that flipped it has the question and one answer of each model, with verdict and
evidence; texts are shown as text and never run.
"""

from __future__ import annotations

import base64
import io
import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from components.evaluation.compare import HEADER, Comparison, compared
from components.evaluation.types import Answer, Evaluation

MAX_ITEMS = 300
MAX_TEXT, MAX_EVIDENCE = 8000, 2000


def write_comparison(evaluations: Mapping[str, Evaluation], path: Path, title: str) -> Comparison:
    """Writes the page for two evaluations, in order, and returns their comparison."""
    (before, after), names = tuple(evaluations.values()), tuple(evaluations)
    found = compared(before, after, (names[0], names[1]))
    body = "".join(
        f"<tr class={row[-1]}>" + "".join(f"<td>{escape(cell)}</td>" for cell in _with_means(row, found)) + "</tr>"
        for row in found.table()
    )
    header = [HEADER[0], "before %", "after %", *HEADER[1:]]
    flips = json.dumps(_flips(before, after), ensure_ascii=False).replace("<", "\\u003c")
    page = (
        PAGE.replace("@TITLE@", escape(title))
        .replace("@BEFORE@", escape(names[0]))
        .replace("@AFTER@", escape(names[1]))
        .replace("@HEADER@", "".join(f"<th>{name}</th>" for name in header))
        .replace("@FACTS@", _facts(before, after))
        .replace("@NAMES@", json.dumps(dict(zip(("before", "after"), names, strict=True))).replace("<", "\\u003c"))
        .replace("@ROWS@", body)
        .replace("@PICTURE@", _picture(evaluations))
        .replace("@CONFIDENCE@", f"{100 * after.overall.avg.confidence:g}")
        .replace("@DATA@", flips)
    )
    path.write_text(page)
    return found


def _with_means(row: list[str], found: Comparison) -> list[str]:
    return [row[0], *(f"{100 * mean:.1f}" for mean in found.means[row[0]]), *row[1:]]


def _facts(before: Evaluation, after: Evaluation) -> str:
    """Rows of what the two scores were taken with: one value where they agree, both where the models differ."""
    rows = []
    for key in sorted(set(before.settings) | set(after.settings)):
        values = dict.fromkeys(str(evaluation.settings.get(key, "")) for evaluation in (before, after))
        span = ' colspan="2"' if len(values) == 1 else ""
        rows.append(f"<tr><td>{escape(key)}</td>" + "".join(f"<td{span}>{escape(v)}</td>" for v in values) + "</tr>")
    return "".join(rows)


def _picture(evaluations: Mapping[str, Evaluation]) -> str:
    """Bars with intervals as a PNG in base64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.benchmarks))
    figure, axes = pyplot.subplots(figsize=(max(6, 1.1 * len(names)), 3.6), dpi=110)
    width = 0.8 / len(evaluations)
    for position, (label, evaluation) in enumerate(evaluations.items()):
        shown = [
            (at, evaluation.benchmarks[name].avg) for at, name in enumerate(names) if name in evaluation.benchmarks
        ]
        places = [at + position * width for at, _ in shown]
        values = [100 * score.value for _, score in shown]
        spread = [
            [100 * (score.value - score.low) for _, score in shown],
            [100 * (score.high - score.value) for _, score in shown],
        ]
        axes.bar(places, values, width, yerr=spread, capsize=3, label=label)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(names))], names, rotation=20, ha="right")
    axes.set_ylabel("avg@k, %")
    axes.set_ylim(0, 105)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight")
    pyplot.close(figure)
    return base64.b64encode(stream.getvalue()).decode()


def _flips(before: Evaluation, after: Evaluation) -> list[dict[str, Any]]:
    """Items whose mean crossed one half, losses first, with one answer of each model."""
    left, right = before.item_means(), after.item_means()
    texts = {"before": _answers(before), "after": _answers(after)}
    rows = [
        {
            "item": item,
            "before": left[item],
            "after": right[item],
            "prompt": texts["after"][item][0].prompt[:MAX_TEXT],
            "reference": texts["after"][item][0].reference,
            "answers": {
                side: _typical(found[item], mean[item])
                for side, found, mean in (("before", texts["before"], left), ("after", texts["after"], right))
            },
        }
        for item in left.keys() & right.keys()
        if (left[item] < 0.5) != (right[item] < 0.5)
    ]
    return sorted(rows, key=lambda row: (row["after"] - row["before"], row["item"]))[:MAX_ITEMS]


def _answers(evaluation: Evaluation) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = defaultdict(list)
    for answer in evaluation.answers:
        found[f"{answer.benchmark}/{answer.item}"].append(answer)
    return found


def _typical(answers: list[Answer], mean: float) -> dict[str, str]:
    """A right answer of an item that is mostly right, a wrong one of one that is mostly wrong."""
    judged = [answer for answer in answers if answer.value is not None] or answers
    wanted = [answer for answer in judged if ((answer.value or 0) >= 0.5) == (mean >= 0.5)] or judged
    evidence = json.dumps(wanted[0].evidence, ensure_ascii=False, default=str)
    return {"outcome": wanted[0].outcome, "text": wanted[0].response[:MAX_TEXT], "evidence": evidence[:MAX_EVIDENCE]}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root{color-scheme:light dark;--line:#8884;--good:#0a7d4f;--bad:#b3402a;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
.better td:last-child{color:var(--good)}.worse td:last-child{color:var(--bad)}
img{max-width:100%;background:#fff;border-radius:4px}
details{border-bottom:1px solid var(--line);padding:.3rem 0}summary{cursor:pointer}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.6rem;border-radius:4px;margin:.3rem 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}@media(max-width:700px){.pair{grid-template-columns:1fr}}
.gained{color:var(--good)}.lost{color:var(--bad)}
#settings td{text-align:left;white-space:normal;overflow-wrap:anywhere}#settings td:first-child{white-space:nowrap}
</style></head><body>
<h1>@TITLE@</h1>
<p>@AFTER@ against @BEFORE@, on the items both answered. All intervals of the table hold together with @CONFIDENCE@ %,
the item is the unit. Gained and lost: items that became mostly right or mostly wrong. Detectable: the smallest true
difference that this comparison finds four times in five.</p>
<table><thead><tr>@HEADER@</tr></thead><tbody>@ROWS@</tbody></table>
<img alt="Scores with intervals" src="data:image/png;base64,@PICTURE@">
<details><summary>Settings</summary><table id="settings">@FACTS@</table></details>
<h2>Items that flipped</h2><div id="items"></div>
<script id="data" type="application/json">@DATA@</script>
<script>
const rows=JSON.parse(document.getElementById('data').textContent),box=document.getElementById('items'),names=@NAMES@;
function el(tag,text,cls){
  const e=document.createElement(tag);if(text!==undefined)e.textContent=text;if(cls)e.className=cls;return e;
}
const percent=x=>Math.round(100*x)+' %';
if(!rows.length)box.append(el('p','None.'));
for(const row of rows){
  const d=el('details'),s=el('summary'),lost=row.after<row.before;
  s.append(el('span',lost?'lost ':'gained ',lost?'lost':'gained'),
    `${row.item}: ${percent(row.before)} to ${percent(row.after)}  ${row.prompt.slice(0,80)}`);
  d.append(s);
  d.addEventListener('toggle',()=>{
    if(!d.open||d.children.length>1)return;
    d.append(el('pre',row.prompt));if(row.reference)d.append(el('div','reference: '+row.reference));
    const pair=el('div',undefined,'pair');
    for(const side of ['before','after']){
      const column=el('div'),answer=row.answers[side];
      column.append(el('b',`${names[side]}: ${answer.outcome}`),el('pre',answer.text));
      if(answer.outcome!=='correct'&&answer.evidence!=='{}')column.append(el('pre',answer.evidence));
      pair.append(column);
    }
    d.append(pair);
  });
  box.append(d);
}
</script></body></html>
"""
