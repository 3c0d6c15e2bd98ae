"""evaluate, compare, serve, export, chat: a model after its training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.stack import JsonOption

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="models:/name@alias, models:/name/version, artifact URI or directory.")
]

RecipeOption = Annotated[str, typer.Option("--recipe", help="Whose benchmarks and settings to use.")]
BenchmarkOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark", "-b", help="aime25, aime25=FILE, or one of the recipe's sets; repeatable."),
]
FileOption = Annotated[
    list[str] | None,
    typer.Option("--file", help="Further file of a benchmark: codeforces.standings=FILE; repeatable."),
]
JudgeOption = Annotated[str, typer.Option("--judge", metavar="MODEL@URL", help="Who decides judged benchmarks.")]
SamplesOption = Annotated[int | None, typer.Option("--samples", min=1, help="Answers per item, of every benchmark.")]
ItemsOption = Annotated[int | None, typer.Option("--items", min=1, help="Only the first items of every benchmark.")]
LengthOption = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c")]


def register(app: typer.Typer) -> None:
    @app.command()
    def evaluate(
        model: ModelArgument,
        recipe: RecipeOption = "nano",
        benchmark: BenchmarkOption = None,
        file: FileOption = None,
        judge: JudgeOption = "",
        samples: SamplesOption = None,
        items: ItemsOption = None,
        max_new_tokens: LengthOption = None,
        inspect: Annotated[
            Path | None, typer.Option("--inspect", metavar="DIR", help="Also write logs for `inspect view` there.")
        ] = None,
        set_: SetOption = None,
        json_: JsonOption = False,
    ) -> None:
        """Evaluate a model: on a recipe's own held-out sets, or on standard benchmarks. A known result is reused.

        MODEL is a registered model or a checkpoint; with standard benchmarks also a Hugging Face directory, or
        MODEL@URL of an OpenAI-compatible endpoint. `ringflow benchmarks` lists the standard ones.
        """
        names = _split(benchmark)
        from flows.standard_request import StandardRequest, is_served, is_standard_name

        if is_served(model) or any(is_standard_name(name) for name in names):
            asked = StandardRequest(model=model, **_standard(names, file, judge, samples, items, max_new_tokens),
                                    overrides=set_ or [], **_recipe_of(recipe))  # fmt: skip
            _inspect(_evaluate_standard(asked, json_), inspect, model)
            return
        from flows.cli import stack
        from flows.cli.run import quiet_prefect, run_request
        from flows.request import EvaluateRequest, load_graph

        # before the model, so that a wrong recipe is told as one
        overrides = [*(set_ or ()), *_own_sets(samples, items, max_new_tokens)]
        load_graph(recipe, overrides, read_base=False, servers=False)
        request = EvaluateRequest(model=model, overrides=overrides, **_recipe_of(recipe))
        home = stack.ensure()
        graph, _ = request.load()
        quiet_prefect(home)
        _inspect(run_request("evaluate", request, list(graph.nodes), json_, benchmark), inspect, model)

    @app.command()
    def benchmarks(json_: JsonOption = False) -> None:
        """List the standard benchmarks and what each one needs."""
        _list_benchmarks(json_)

    @app.command()
    def compare(
        before: ModelArgument,
        after: ModelArgument,
        recipe: RecipeOption = "nano",
        benchmark: BenchmarkOption = None,
        file: FileOption = None,
        judge: JudgeOption = "",
        samples: SamplesOption = None,
        items: ItemsOption = None,
        max_new_tokens: LengthOption = None,
        set_: SetOption = None,
        json_: JsonOption = False,
    ) -> None:
        """Compare two models item by item; exit code 1 when AFTER is surely worse on any benchmark.

        On a recipe's held-out sets, or on standard benchmarks (-b). Two evaluations that exist already
        (evaluate-sft, evaluate-rlhf, or their URIs) are compared as they are.
        """
        from flows.cli.compare import run_comparison
        from flows.compare_request import CompareRequest

        names = _split(benchmark)
        overrides = list(set_ or ())
        if not names:
            overrides += _own_sets(samples, items, max_new_tokens)
            samples = items = max_new_tokens = None
        request = CompareRequest(before=before, after=after, **_recipe_of(recipe), overrides=overrides,
                                 **_standard(names, file, judge, samples, items, max_new_tokens))  # fmt: skip
        run_comparison(request, json_)

    @app.command()
    def serve(
        model: ModelArgument,
        host: Annotated[str, typer.Option("--host", help="Loopback unless you say otherwise.")] = "127.0.0.1",
        port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
        api_key_env: Annotated[
            str | None, typer.Option("--api-key-env", help="Environment variable that holds the API key.")
        ] = None,
        max_model_len: Annotated[int | None, typer.Option("--max-model-len", min=16)] = None,
        device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
        tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1)] = 1,
        pipeline_parallel: Annotated[int, typer.Option("--pipeline-parallel", min=1)] = 1,
        nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; with --show.")] = 1,
        yarn: Annotated[float | None, typer.Option("--yarn", min=1, help="Times the context, by YaRN.")] = None,
        show: Annotated[bool, typer.Option("--show", help="Print commands for plain vLLM and SGLang instead.")] = False,
    ) -> None:
        """Serve a model with vLLM's OpenAI-compatible server, in the foreground.

        With --show: the command lines for machines without ringflow, one per node; MODEL may then be any path there.
        """
        from components.release.serve import serve as start
        from components.release.server_command import ServeOptions
        from flows.references import local_model

        options = ServeOptions(
            host=host,
            port=port,
            max_model_len=max_model_len,
            device=_device(device),
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            nodes=nodes,
            yarn_factor=yarn,
            api_key_env=api_key_env,
        )
        if show:
            _show_commands(model, options)
            return
        start(local_model(model), options)

    @app.command()
    def export(
        model: ModelArgument,
        out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New directory to write.")],
        dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16, fp8, int4 or int4-dense.")] = "bfloat16",
        json_: JsonOption = False,
    ) -> None:
        """Write a model's weights in another dtype, as a Hugging Face directory that vLLM and SGLang load."""
        _export(model, out, dtype, json_)

    @app.command()
    def chat(
        model: Annotated[
            str, typer.Argument(metavar="MODEL", help="As for serve; or the http:// address of a server.")
        ],
        message: Annotated[
            list[str] | None, typer.Option("--message", "-m", help="Say this instead of asking; repeatable.")
        ] = None,
        temperature: Annotated[float | None, typer.Option("--temperature", min=0)] = None,
        max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1)] = None,
        think: Annotated[bool, typer.Option(help="Let the model think first.")] = True,
        device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    ) -> None:
        """Talk to a model in the terminal."""
        from components.release.chat import Chat, converse

        def talk(base_url: str) -> None:
            converse(Chat(base_url, thinking=think, temperature=temperature, max_tokens=max_tokens), message)

        if model.startswith(("http://", "https://")):
            base = model.rstrip("/")
            talk(base if base.endswith("/v1") else f"{base}/v1")
            return
        import socket

        from components.release.serve import start
        from components.release.server_command import ServeOptions
        from flows.references import local_model

        directory = local_model(model)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        print("starting the server ...", file=sys.stderr)
        with start(directory, ServeOptions(port=port, device=_device(device))) as server:
            talk(server.base_url)


def _show_commands(model: str, options) -> None:
    from components.release.commands import sglang_commands, vllm_commands
    from components.release.server_command import model_directory
    from flows.references import local_model

    local = model.startswith("models:/") or "://" in model or Path(model).is_dir()
    where = model_directory(local_model(model)) if local else model
    for title, commands in (("vLLM", vllm_commands), ("SGLang", sglang_commands)):
        for rank, line in enumerate(commands(where, options)):
            print(f"# {title}{f', node {rank}' if options.nodes > 1 else ''}\n{line}")


def _export(model: str, out: Path, dtype: str, json_: bool) -> None:
    from dataclasses import asdict

    from components.release.export import export
    from components.release.server_command import ServeOptions, model_directory, served_name
    from flows.cli.output import print_json
    from flows.references import local_model

    source = model_directory(local_model(model))
    written = export(source, out, served_name(source, ServeOptions()), dtype)
    if json_:
        print_json(asdict(written) | {"directory": str(out)})
    else:
        print(f"{out}: {written.parameters[0]:,} parameters, {written.dtype}, {written.bytes:,} bytes")


def _split(benchmarks: list[str] | None) -> list[str]:
    return [name for text in benchmarks or () for name in text.split(",")]


def _standard(names, file, judge, samples, items, max_new_tokens) -> dict[str, Any]:
    """The fields of flows.standard_request.BenchmarksRequest."""
    short = {"samples": samples, "items": items, "max_new_tokens": max_new_tokens}
    return {"benchmarks": names, "files": file or [], "judge": judge, **short}


def _own_sets(samples: int | None, items: int | None, max_new_tokens: int | None) -> list[str]:
    """The same options for a recipe's own sets, as overrides."""
    short = {"samples": samples, "items": items, "max_new_tokens": max_new_tokens}
    return [f"evaluate.{name}={value}" for name, value in short.items() if value is not None]


def _recipe_of(recipe: str) -> dict[str, str]:
    from flows.request import named

    return named(recipe)


def _list_benchmarks(json_: bool) -> None:
    from components.evaluation.benchmark import registry
    from flows.cli.output import print_json, print_table

    found = registry().values()
    if json_:
        print_json([{"name": b.name, "title": b.title, "samples": b.samples, "judged": b.judged} for b in found])
        return
    rows = []
    for benchmark in found:
        needs = ["judge"] * benchmark.judged + [f"file {name}" for name in benchmark.needs]
        where = benchmark.hub.name if benchmark.hub else "your file"
        rows.append([benchmark.name, f"avg@{benchmark.samples}", ", ".join(needs), where])
    print_table(["benchmark", "samples", "needs", "data"], rows)


def _evaluate_standard(request, json_: bool):
    from flows.cli import stack
    from flows.cli.run import quiet_prefect, run_request

    request.check()  # names and files, before servers are started
    quiet_prefect(stack.ensure())
    return run_request("evaluate-standard", request, ["benchmarks", "evaluate"], json_)


def _inspect(result, directory: Path | None, model: str) -> None:
    """Writes the answers of a run's evaluations as Inspect logs."""
    if directory is None:
        return
    import os

    from components.artifacts.store import Store
    from components.evaluation.inspect_log import write_inspect_logs
    from components.evaluation.scores import load_evaluation

    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    for stage in result.stages:
        if stage.ref is not None and stage.ref.kind == "evaluation":
            logs = write_inspect_logs(load_evaluation(store.fetch(stage.ref)), directory, model)
            print(f"{len(logs)} logs: inspect view --log-dir {directory}", file=sys.stderr)


def _device(device: str):
    from components.failures import BadInput

    if device not in ("cpu", "cuda"):
        raise BadInput(f"{device!r} is no device", where="--device", remedy="Use cpu or cuda")
    return device
