"""simulate: what a recipe costs on a cluster, or here, and where the time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.run import RecipeArgument, SetOption
from flows.cli.stack import JsonOption

# Llama 3's training: 419 unexpected interruptions in 54 days of 16,384 H100 (arXiv 2407.21783, 3.3.4).
MTBF_H = 50_000.0


def register(app: typer.Typer) -> None:
    @app.command()
    def simulate(
        recipe: RecipeArgument,
        devices: Annotated[
            str | None, typer.Option(metavar="64xH100", help="A cluster, timed by the planner's cost model.")
        ] = None,
        measured: Annotated[
            str | None,
            typer.Option(metavar="RUN", help="This machine, timed by a finished run, or a file of --save-rates."),
        ] = None,
        set_: SetOption = None,
        mtbf: Annotated[
            float | None, typer.Option(min=0, help="Hours between failures of a device; 0: none. [50,000; here 0]")
        ] = None,
        restart: Annotated[float, typer.Option(min=0, help="Seconds from a failure to a new start.")] = 300.0,
        noise: Annotated[
            float | None, typer.Option(min=0, help="Mean delay of a replica's step over the step. [0.02; here 0]")
        ] = None,
        wait: Annotated[float, typer.Option(min=0, help="Mean minutes that a stage waits for its nodes.")] = 0.0,
        wait_spread: Annotated[float, typer.Option(min=0, help="Deviation of that wait over its mean.")] = 1.0,
        price: Annotated[float | None, typer.Option(min=0, help="Of one device-hour, in any currency.")] = None,
        method: Annotated[
            str | None, typer.Option(metavar="today|extended", help="As in `plan`; today where that fits.")
        ] = None,
        mean_length: Annotated[float, typer.Option(min=0.01, max=1.0, help="Mean answer over the longest.")] = 0.25,
        storage: Annotated[float, typer.Option(min=0.001, help="GB/s between a node and the store.")] = 2.0,
        prompts: Annotated[int, typer.Option(min=0, help="RL prompts that `pass-rate` tries.")] = 50_000,
        draws: Annotated[int, typer.Option(min=1, max=10_000, help="Plays of the whole pipeline.")] = 200,
        seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
        plot: Annotated[Path | None, typer.Option(metavar="out.png", help="A picture: bars by stage.")] = None,
        save_rates: Annotated[
            Path | None, typer.Option(metavar="FILE", help="With --measured: keeps the rates as JSON.")
        ] = None,
        json_: JsonOption = False,
    ) -> None:
        """Play a recipe's stages many times: failures, checkpoints, stragglers, queues. Runs nothing."""
        from math import inf

        from components.failures import BadInput
        from components.simulation.stage import Weather
        from flows.request import load_graph
        from flows.simulate import as_json, chosen_plan, print_simulated, simulate_here, simulate_on

        if (devices is None) == (measured is None):
            raise BadInput("on what?", where="simulate", remedy="Give --devices 64xH100 or --measured RUN, one of them")
        if save_rates is not None and measured is None:
            raise BadInput("no rates were measured", where="--save-rates", remedy="Give --measured RUN")
        graph = load_graph(recipe, set_ or (), read_base=False, servers=False)[0]
        here = measured is not None
        hours = mtbf if mtbf is not None else 0.0 if here else MTBF_H
        slower = noise if noise is not None else 0.0 if here else 0.02
        weather = Weather(hours or inf, restart, slower, 60 * wait, wait_spread)
        if devices is not None:
            from components.simulation.cluster import Assumed

            assumed = Assumed(mean_length=mean_length, storage=1e9 * storage, prompts=prompts)
            made = simulate_on(
                graph, chosen_plan(graph, devices, method, mean_length), assumed, weather, draws, seed, price
            )
        else:
            rates = _rates(measured, graph.recipe.execution)
            if save_rates is not None:
                from dataclasses import asdict

                save_rates.write_text(json.dumps(asdict(rates), indent=1) + "\n")
            made = simulate_here(graph, rates, weather, draws, seed, price)
        if plot is not None:
            from flows.simulate_plot import draw_picture

            draw_picture(made, plot)
        if json_:
            from flows.cli.output import print_json

            print_json(as_json(made))
        else:
            print_simulated(made)
            if plot is not None:
                print(f"\npicture: {plot}")


def _rates(measured: str, execution):
    from components.failures import BadInput
    from components.simulation.measured import read_rates

    path = Path(measured)
    if path.is_file():
        try:
            return read_rates(json.loads(path.read_text()))
        except ValueError as error:
            raise BadInput(f"not JSON: {error}", where=measured) from error
    from flows.cli import stack
    from flows.recorded_run import rates_of

    stack.ensure(start=False)
    return rates_of(measured, execution)
