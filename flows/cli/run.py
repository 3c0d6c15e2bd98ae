"""run and plan: a recipe from start to end, and what such a run would do."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from flows.cli.stack import JsonOption

RecipeArgument = Annotated[str, typer.Argument(help="Name of a recipe, or path of a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one value of the recipe; repeatable.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="Run from this stage on; earlier ones must be finished.")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="STAGE", help="Run only this stage; repeatable.")
]
ForceOption = Annotated[
    list[str] | None, typer.Option("--force", metavar="STAGE", help="Run this stage again although it is finished.")
]
DevicesOption = Annotated[
    str | None,
    typer.Option("--devices", metavar="64xH100", help="Plan layout, memory and time on these devices instead."),
]
LengthOption = Annotated[
    float, typer.Option("--mean-length", min=0.01, max=1.0, help="With --devices: mean answer over the longest.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="The recipe's seed.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def run(
        recipe: RecipeArgument,
        set_: SetOption = None,
        from_: FromOption = None,
        only: OnlyOption = None,
        force: ForceOption = None,
        seed: SeedOption = None,
        json_: JsonOption = False,
    ) -> None:
        """Run a recipe here. Exit code 0 only if every stage it needs is finished."""
        graph = _checked(recipe, set_, from_, only, force, seed)
        from flows.cli import stack

        home = stack.ensure()
        quiet_prefect(home)
        run_request("ring", _request(recipe, set_, from_, only, force, seed), list(graph.nodes), json_)

    @app.command()
    def plan(
        recipe: RecipeArgument,
        set_: SetOption = None,
        from_: FromOption = None,
        only: OnlyOption = None,
        force: ForceOption = None,
        seed: SeedOption = None,
        devices: DevicesOption = None,
        mean_length: LengthOption = 0.25,
        json_: JsonOption = False,
    ) -> None:
        """Show what `run` would do, stage by stage: HIT, RESUME or MISS, why, and where. Runs nothing."""
        graph = _checked(recipe, set_, from_, only, force, seed, read_base=False)
        if devices is not None:
            from flows.scale import print_scale

            print_scale(graph.recipe, devices, mean_length, json_)
            return
        from flows.cli import stack
        from flows.plan import make_plan, print_plan

        home = stack.home_directory()
        url = None
        if stack.is_up(home):
            from flows.outside import with_outside

            stack.ensure(start=False)
            url = os.environ["RINGFLOW_STORE"]
            graph = with_outside(_checked(recipe, set_, from_, only, force, seed, read_base=False, servers=True))
        made = make_plan(graph, url, from_, only or (), force or ())
        print_plan(made, graph, json_, home)


def run_request(flow: str, request, nodes: list[str], json_: bool, benchmarks=None):
    """Runs a flow (flows.again) in this process with a board, prints and returns what it came to."""
    result = run_on_board(flow, request, nodes)
    from components.artifacts.process import boot_seconds, process_began
    from flows.cli.summary import print_result

    print_result(result, boot_seconds() - process_began(), json_, benchmarks)
    if not result.succeeded:
        raise typer.Exit(130 if result.cancelled else 1)
    return result


def run_on_board(flow: str, request, nodes: list[str]):
    """The RunResult of a flow (flows.again), run in this process and shown while it runs."""
    from contextlib import nullcontext

    from flows.lean import import_prefect

    import_prefect()
    from components.artifacts.process import process_began
    from flows.again import flow_of
    from flows.board import LiveBoard, PlainBoard
    from flows.execute import run_here

    board = LiveBoard(nodes) if sys.stderr.isatty() else PlainBoard(nodes)
    with board if isinstance(board, LiveBoard) else nullcontext():
        return run_here(flow_of(flow), request, board, process_began())


def _request(recipe, overrides, start_at, only, force, seed):
    from flows.request import RunRequest, named

    return RunRequest(
        **named(recipe),
        overrides=overrides or [],
        start_at=start_at or "",
        only=only or [],
        force=force or [],
        seed=seed,
    )


def _checked(recipe, overrides, start_at, only, force, seed, read_base=True, servers=False):
    """The part of the DAG that a run is about, after every check (without `servers`: that needs none)."""
    from flows.request import chosen, load_graph

    graph, _ = load_graph(recipe, overrides or (), seed, read_base, servers)
    allowed, _ = chosen(graph, start_at, only or (), force or ())
    return graph.part(allowed)


def quiet_prefect(home) -> None:
    """Prefect's log lines go to the server and to a file, not between the lines of the board."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
