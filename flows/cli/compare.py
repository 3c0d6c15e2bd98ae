"""The end of `ringflow compare`: the table of paired differences, and where its page is."""

from __future__ import annotations

import os
import sys

import typer

from flows.compare_request import CompareRequest


def run_comparison(request: CompareRequest, json_: bool) -> None:
    """Compares two evaluations that exist, or evaluates two models and compares those; exits with 1 on a loss."""
    from flows.cli import stack
    from flows.cli.run import quiet_prefect

    request.check()  # names and files, before servers are started
    home = stack.ensure()
    quiet_prefect(home)
    known = _evaluations(request)
    if known is not None:
        from flows.compare_flow import compare_artifacts

        refs, store = known
        _print(request, compare_artifacts(refs, store), json_, {})
        return
    from flows.cli.output import print_json
    from flows.cli.run import run_on_board

    graph, _ = request.load()
    result = run_on_board("compare", request, list(graph.nodes))
    from flows.compare_flow import last_comparison

    found = last_comparison()
    if found is None:
        if json_:
            print_json(result.as_json())
        print(f"ringflow: {result.message()}", file=sys.stderr)
        raise typer.Exit(130 if result.cancelled else 1)
    _print(request, found, json_, dict(result.links))


def _evaluations(request: CompareRequest):
    """({name: evaluation}, store) when both sides name an evaluation; None when none does. Raises BadInput for one."""
    from components.artifacts.store import Store
    from components.failures import BadInput
    from flows.references import find_artifact

    names = (request.before, request.after)
    if request.benchmarks or any(request.served(name) for name in names):
        return None
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    refs = {name: find_artifact(name, store) for name in names}
    kinds = [ref.kind == "evaluation" for ref in refs.values()]
    if any(kinds) and not all(kinds):
        told = " and ".join(f"{name} is a {ref.kind}" for name, ref in refs.items())
        raise BadInput(told, where="compare", remedy="Name two models, or two evaluations")
    return (refs, store) if all(kinds) else None


def _print(request: CompareRequest, found, json_: bool, links: dict[str, str]) -> None:
    from components.evaluation.compare import HEADER
    from flows.cli.output import print_json, print_table

    rows, comparison = found.comparison.table(), found.comparison
    if json_:
        table = [dict(zip(HEADER, row, strict=True)) for row in rows]
        told = {"before": request.before, "after": request.after, "worse": comparison.worse, "rows": table}
        print_json(told | {"page": str(found.page), "links": links})
    else:
        print_table(HEADER, rows, right=HEADER[1:-1])
        print()
        for name, link in {"Page": str(found.page), **links}.items():
            print(f"  {name:<15} {link}")
        if comparison.worse:
            print(f"{request.after} is worse than {request.before} on {', '.join(comparison.worse)}")
    if comparison.worse:
        raise typer.Exit(1)
