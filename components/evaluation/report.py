"""report.html: every item, answer and verdict of an evaluation in one small self-contained page.

The answers are embedded as JSON and rendered as text by the page's script, so a response that looks like HTML is shown
and never run. Long benchmarks are thinned: every item keeps its numbers, at most `MAX_ANSWERS` answers keep their text.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from components.evaluation.benchmark import find, is_standard
from components.evaluation.scores import own_files
from components.evaluation.types import Answer, Evaluation, Score

MAX_ANSWERS = 4000
MAX_TEXT = 20_000


def boards(evaluation: Evaluation, files: Mapping[str, Path]) -> str:
    """HTML of the tables that some benchmarks have beside their scores (the scoreboard of contests).

    files: `benchmark.file` -> path.
    """
    found = ""
    for name in evaluation.benchmarks:
        board = find(name).board if is_standard(name) else None
        answers = [answer for answer in evaluation.answers if answer.benchmark == name]
        rows = board(answers, own_files(files, name)) if board is not None else []
        if rows:
            found += f"<h2>Scoreboard of {escape(name)}</h2>" + _table(list(rows[0]), [row.values() for row in rows])
    return found


def write_report(evaluation: Evaluation, path: Path, title: str, more: str = "") -> Path:
    """Writes the page. title: what was evaluated, e.g. the stage's name; more: HTML shown below the scores."""
    data = json.dumps(_items(evaluation.answers), ensure_ascii=False).replace("<", "\\u003c")
    scores = {**evaluation.benchmarks, "overall": evaluation.overall}
    further = [(name, key, metric) for name, found in evaluation.metrics.items() for key, metric in found.items()]
    suites = evaluation.settings.get("suites") or {}
    keys = list(dict.fromkeys(key for found in suites.values() for key in found))
    drawn = [[name, *(found.get(key, "") for key in keys)] for name, found in suites.items()]
    settings = [(key, value) for key, value in sorted(evaluation.settings.items()) if key not in ("suites", "settings")]
    page = (
        PAGE.replace("@TITLE@", escape(title))
        .replace("@CONFIDENCE@", f"{100 * evaluation.overall.avg.confidence:g}")
        .replace("@SCORES@", _rows([_row(name, score, _headline(evaluation, name)) for name, score in scores.items()]))
        .replace("@FURTHER@", FURTHER.replace("@ROWS@", _rows(further)) if further else "")
        .replace("@MORE@", more)
        .replace("@SUITES@", _table(["benchmark", *keys], drawn) if drawn else "")
        .replace("@SETTINGS@", _rows(settings))
        .replace("@DATA@", data)
    )
    path.write_text(page)
    return path


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{_rows(rows)}</tbody></table>"


def _rows(rows: Iterable[Iterable[object]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)


def _headline(evaluation: Evaluation, name: str) -> str:
    """What the benchmark is known by, where that is not its avg@k."""
    headline = find(name).headline if is_standard(name) else "avg"
    metric = evaluation.metrics.get(name, {}).get(headline)
    return f"{headline} {metric}" if metric is not None else ""


def _row(name: str, score: Score, headline: str) -> list[object]:
    largest = max(score.pass_at)
    return [
        name,
        headline,
        score.samples,
        f"{100 * score.avg.value:.1f}",
        f"{100 * score.avg.low:.1f} to {100 * score.avg.high:.1f}",
        f"{100 * score.pass_at[largest]:.1f} (k={largest})",
        *(score.items, score.answers, score.correct, score.wrong, score.scored, score.truncated, score.no_answer),
        *(score.refused, score.judge_failed, score.errors),
        f"{score.mean_tokens:.0f}",
    ]


def _items(answers: list[Answer]) -> list[dict]:
    """One entry per item; answers beyond MAX_ANSWERS keep their verdict and lose their text."""
    items: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        items[answer.benchmark, answer.item].append(answer)
    per_item = max(1, MAX_ANSWERS // max(1, len(items)))
    entries = []
    for (benchmark, item), found in items.items():
        values = [answer.value for answer in found if answer.value is not None]
        entries.append(
            {
                "benchmark": benchmark,
                "item": item,
                "family": found[0].family,
                "level": found[0].level,
                "prompt": found[0].prompt[:MAX_TEXT],
                "reference": found[0].reference,
                "mean": sum(values) / len(values) if values else None,
                "outcomes": Counter(answer.outcome for answer in found),
                "answers": [
                    {
                        "sample": answer.sample,
                        "outcome": answer.outcome,
                        "value": answer.value,
                        "tokens": answer.tokens,
                        "text": answer.response[:MAX_TEXT] if number < per_item else None,
                        "evidence": json.dumps(answer.evidence, ensure_ascii=False, default=str)[:2000],
                    }
                    for number, answer in enumerate(found)
                ],
            }
        )
    return entries


FURTHER = """<h2>Further numbers</h2><table><thead><tr><th>benchmark</th><th>number</th><th>value [interval]</th></tr>
</thead><tbody>@ROWS@</tbody></table>"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@: evaluation</title>
<style>
:root{color-scheme:light dark;--line:#8884;--good:#0a7d4f;--bad:#b3402a;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
td,th{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
#settings td{text-align:left;white-space:normal;overflow-wrap:anywhere}#settings td:first-child{white-space:nowrap}
#filters{display:flex;gap:.6rem;flex-wrap:wrap;margin:1rem 0}select,input{font:inherit;padding:.2rem .4rem}
details{border-bottom:1px solid var(--line);padding:.3rem 0}summary{cursor:pointer}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.6rem;border-radius:4px;margin:.3rem 0}
.correct{color:var(--good)}.wrong,.error{color:var(--bad)}.bar{display:inline-block;width:3.2rem;text-align:right}
</style></head><body>
<h1>@TITLE@</h1>
<table><thead><tr><th>benchmark</th><th>known by</th><th>k</th><th>avg@k %</th>
<th>@CONFIDENCE@ % interval</th><th>pass@k %</th><th>items</th>
<th>answers</th><th>correct</th><th>wrong</th><th>graded</th><th>truncated</th><th>no answer</th><th>refused</th>
<th>judge failed</th><th>errors</th><th>tokens</th></tr></thead>
<tbody>@SCORES@</tbody></table>
@FURTHER@
@MORE@
<details><summary>Settings</summary>@SUITES@<table id="settings">@SETTINGS@</table></details>
<h2>Items</h2>
<div id="filters"><select id="benchmark" aria-label="benchmark"></select>
<select id="outcome" aria-label="outcome"><option value="">any outcome</option>
<option>correct</option><option>wrong</option><option>scored</option>
<option>truncated</option><option>no-answer</option><option>refused</option><option>judge-failed</option>
<option>error</option></select>
<input id="search" type="search" placeholder="search prompts" aria-label="search prompts"><span id="count"></span></div>
<div id="items"></div>
<script id="data" type="application/json">@DATA@</script>
<script>
const items=JSON.parse(document.getElementById('data').textContent),get=id=>document.getElementById(id);
function el(tag,text,cls){
  const e=document.createElement(tag);if(text!==undefined)e.textContent=text;if(cls)e.className=cls;return e;
}
const names=[...new Set(items.map(i=>i.benchmark))].map(b=>new Option(b,b));
get('benchmark').append(new Option('all benchmarks',''),...names);
function body(box,item){
  box.append(el('pre',item.prompt));if(item.reference)box.append(el('div','reference: '+item.reference));
  for(const a of item.answers){
    box.append(el('div',`sample ${a.sample}: ${a.outcome}, ${a.tokens} tokens`,a.outcome));
    if(a.text!==null)box.append(el('pre',a.text));
    if(a.outcome!=='correct'&&a.evidence!=='{}')box.append(el('pre',a.evidence));
  }
}
function show(){
  const b=get('benchmark').value,o=get('outcome').value,s=get('search').value.toLowerCase();
  const found=items.filter(i=>(!b||i.benchmark===b)&&(!o||i.outcomes[o])&&(!s||i.prompt.toLowerCase().includes(s)));
  get('count').textContent=`${found.length} items`+(found.length>500?', first 500 shown':'');
  get('items').replaceChildren(...found.slice(0,500).map(i=>{
    const d=el('details'),sum=el('summary');
    sum.append(el('span',i.mean===null?'error':Math.round(100*i.mean)+' %','bar '+(i.mean>=.5?'correct':'wrong')),
      ` ${i.benchmark} / ${i.family} level ${i.level}: ${i.prompt.slice(0,90)}`);
    d.append(sum);d.addEventListener('toggle',()=>{if(d.open&&d.children.length===1)body(d,i)});return d}));
}
for(const id of ['benchmark','outcome','search'])get(id).addEventListener('input',show);show();
</script></body></html>
"""
