"""Stage `evaluate-served`: a model behind HTTP on standard benchmarks: an endpoint, or a directory served meanwhile."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.digest import bytes_sha256, file_sha256
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_benchmarks
from components.evaluation.endpoint import Endpoint, EndpointSampler
from components.evaluation.grading import open_grading
from components.evaluation.report import boards, write_report
from components.evaluation.runner import TRACES, run_suites
from components.evaluation.suite import suites_of, with_agents
from components.failures import InfrastructureError
from components.recipe.evaluation import ServedEvaluationConfig
from components.release.serve import Server, start
from components.release.server_command import ServeOptions
from tasks.stage import StageConfig
from tasks.stages.benchmarks import files_of, keep_files
from tasks.stages.evaluate import metrics, summary


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Inputs: `corpus`. Output: items.jsonl, scores.json, report.html, files/, judge.jsonl where a judge was asked."""
    section: ServedEvaluationConfig = config.section
    corpus = context.fetch(inputs["corpus"])
    benchmarks, files = read_benchmarks(corpus), files_of(corpus)
    with ExitStack() as held:
        items = [item for members in benchmarks.values() for item in members]
        judge, execution = section.evaluation.judge, context.execution
        grading = open_grading(held, items, judge, execution, files, context.output / "judge.jsonl")
        endpoint, server = _endpoint(section, context, held)
        sampler = held.enter_context(EndpointSampler(endpoint, context.check))
        suites = suites_of(benchmarks, section.evaluation)
        agents = with_agents(sampler, suites, section.evaluation.agentic, context.output / TRACES)
        facts = {**sampler.facts, "revision": section.served.revision}
        if section.served.directory:
            facts |= {"endpoint": "vLLM, served here", "model": section.served.directory}
            facts |= served_files(Path(section.served.directory))
        try:
            evaluation = run_suites(agents, suites, section.evaluation, grading, context, facts, files=files)
        except InfrastructureError as error:
            if server is not None and (problem := server.problem()):
                raise InfrastructureError(f"{error}; {problem}") from error
            raise
    evaluation.write(context.output)
    keep_files(files, context.output)
    name = section.served.directory or f"{section.served.model} at {section.served.base_url}"
    page = write_report(evaluation, context.output / "report.html", name, boards(evaluation, files))
    context.attach(page, "evaluation.html")
    context.metrics(metrics(evaluation), step=0)
    return StageResult(summary=summary(evaluation))


def served_files(directory: Path) -> dict[str, str]:
    """Digests of what a served directory turns text into tokens with, recorded with its scores."""
    found = {}
    if (tokenizer := directory / "tokenizer.json").is_file():
        found["served_tokenizer_sha256"] = file_sha256(tokenizer)
    template = directory / "chat_template.jinja"
    settings = directory / "tokenizer_config.json"
    text = template.read_text() if template.is_file() else None
    if text is None and settings.is_file():
        text = json.loads(settings.read_text()).get("chat_template")
    if text is not None:
        found["served_chat_template_sha256"] = bytes_sha256(json.dumps(text).encode())
    return found


def _endpoint(
    section: ServedEvaluationConfig, context: StageContext, held: ExitStack
) -> tuple[Endpoint, Server | None]:
    """(where the model answers, the server when it was started here)."""
    served, execution = section.served, context.execution
    if not served.directory:
        many = execution.max_num_seqs // 4 or 1
        return Endpoint(served.base_url, served.model, served.api_key_env, concurrency=many), None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ServeOptions(
        port=port,
        device=execution.device,
        threads=execution.threads * execution.engines,
        max_num_seqs=execution.max_num_seqs,
        tensor_parallel=execution.engine_tensor_parallel,
        yarn_factor=section.evaluation.yarn_factor,
    )
    log = context.scratch / "server.log"
    server = held.enter_context(start(Path(served.directory), options, log=log, deadline_s=execution.start_deadline_s))
    return Endpoint(server.base_url, server.model, concurrency=execution.max_num_seqs), server
