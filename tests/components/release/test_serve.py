"""A real vLLM server on a random model, asked by the openai client and by the terminal chat."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from rich.console import Console

from components.artifacts.local import LocalContext
from components.evaluation.benchmark import find
from components.evaluation.endpoint import Endpoint, EndpointSampler
from components.evaluation.grading import open_grading
from components.evaluation.runner import run_suites
from components.evaluation.suite import suites_of
from components.failures import BadInput, InfrastructureError
from components.recipe.evaluation import BenchmarkSettings, EvaluationConfig
from components.recipe.execution import JudgeEndpoint
from components.release.chat import AnswerFailed, Chat, converse
from components.release.serve import PARENT, _last_words, start
from components.release.server_command import ServeOptions, stretched
from components.rewards.judge import Judge
from components.rewards.pairwise import choice_of, question
from tests.components.release.random_model import write_random_model

ROOT = Path(__file__).parents[3]
QUESTION = [{"role": "user", "content": "m:6a+4b*7c="}]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_random_model(root / "ring-random" / "model")
    options = ServeOptions(port=free_port(), max_num_seqs=8, max_model_len=256)
    with start(root / "ring-random", options, log=root / "serve.log", deadline_s=800) as running:
        yield running


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=120)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
class TestServed:
    def test_models_health_and_metrics(self, server, client):
        assert [model.id for model in client.models.list()] == ["ring-random"] == [server.model]
        root = server.base_url.removesuffix("/v1")
        assert httpx.get(f"{root}/health").status_code == 200
        assert "vllm:" in httpx.get(f"{root}/metrics").text

    def test_chat_and_logprobs(self, client):
        answer = client.chat.completions.create(
            model="ring-random", messages=QUESTION, max_tokens=24, seed=3, logprobs=True, top_logprobs=2
        )
        again = client.chat.completions.create(model="ring-random", messages=QUESTION, max_tokens=24, seed=3)
        drawn = answer.choices[0].logprobs.content
        assert len(drawn) == answer.usage.completion_tokens <= 24
        assert all(token.logprob <= 0 and len(token.top_logprobs) >= 2 for token in drawn)
        assert answer.choices[0].message == again.choices[0].message

    def test_thinking_is_reasoning_and_can_be_switched_off(self, client):
        texts = {}
        for thinking in (True, False):
            message = (
                client.chat.completions.create(
                    model="ring-random",
                    messages=QUESTION,
                    max_tokens=16,
                    seed=1,
                    extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
                )
                .choices[0]
                .message
            )
            texts[thinking] = (message.reasoning, message.content)
        assert texts[True][0]
        assert texts[False][0] is None
        assert texts[False][1]

    def test_streams_and_stops(self, client):
        options = {"model": "ring-random", "messages": QUESTION, "max_tokens": 40, "seed": 5}
        options["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
        whole = client.chat.completions.create(**options).choices[0].message.content
        parts = [
            chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **options)
        ]
        assert "".join(parts) == whole
        assert len(parts) > 2
        stopped = client.chat.completions.create(stop=[whole[5]], **options).choices[0]
        assert stopped.finish_reason == "stop"
        assert stopped.message.content == whole.split(whole[5])[0]

    def test_streamed_thoughts_come_as_reasoning_with_their_usage(self, client):
        options = {"model": "ring-random", "messages": QUESTION, "max_tokens": 16, "seed": 1}
        whole = client.chat.completions.create(**options)
        usage = {"include_usage": True}
        chunks = list(client.chat.completions.create(stream=True, stream_options=usage, **options))
        deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
        reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
        assert (reasoning, content) == (
            whole.choices[0].message.reasoning or "",
            whole.choices[0].message.content or "",
        )
        assert reasoning
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    def test_several_stops_and_streamed_logprobs(self, client):
        options = {"model": "ring-random", "messages": QUESTION, "max_tokens": 24, "seed": 5}
        options["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
        whole = client.chat.completions.create(logprobs=True, **options).choices[0]
        text = whole.message.content
        marks = [text[9], text[4]]
        stopped = client.chat.completions.create(stop=marks, **options).choices[0]
        first = min(text.find(mark) for mark in marks)
        assert (stopped.message.content or "", stopped.finish_reason) == (text[:first], "stop")
        chunks = client.chat.completions.create(stream=True, logprobs=True, **options)
        drawn = [token for chunk in chunks for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs
                                                         else [])]  # fmt: skip
        assert [token.token for token in drawn] == [token.token for token in whole.logprobs.content]
        # greater batches round otherwise: the same numbers to float32's precision
        for streamed, known in zip(drawn, whole.logprobs.content, strict=True):
            assert streamed.logprob == pytest.approx(known.logprob, abs=1e-4)

    def test_values_out_of_range_are_bad_requests(self, client):
        for wrong in ({"temperature": -1}, {"max_tokens": 0}, {"top_p": 2}, {"logprobs": True, "top_logprobs": 5000}):
            with pytest.raises(openai.BadRequestError, match=next(iter(wrong))):
                client.chat.completions.create(model="ring-random", messages=QUESTION, **wrong)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="ring-random", messages=[])

    def test_refusals_say_why(self, client):
        with pytest.raises(openai.NotFoundError, match="other"):
            client.chat.completions.create(model="other", messages=QUESTION)
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            client.chat.completions.create(model="ring-random", messages=[{"role": "user", "content": "9" * 400}])

    def test_a_judge_over_it_is_told_apart_from_a_verdict(self, server):
        """A random model answers, mostly inside its reasoning, and that is no verdict: an error, never a reward."""
        endpoint = JudgeEndpoint(model=server.model, base_url=server.base_url, timeout_s=120)
        judge = Judge(endpoint)
        asked = question("a", "b", "c")[1:]  # without the instructions: the model has few positions
        reply = judge.ask(asked, 8)
        assert reply.tokens > 8
        assert judge.ask(asked, 8).cached
        with pytest.raises(InfrastructureError, match="no verdict"):
            judge.verdict([{"role": "user", "content": "a"}], choice_of, 4)
        judge.close()

    def test_terminal_chat_on_piped_lines(self, server):
        chat = Chat(server.base_url, max_tokens=20)
        out = StringIO()
        lines = ["1+1=", "/thought", "/think off", "", "2+2=", "/exit", "never asked"]
        converse(chat, lines, Console(file=out, width=200))
        text = out.getvalue()
        assert text.count("tokens/s") == 2
        assert "thought for" in text
        assert [message["role"] for message in chat.history] == ["user", "assistant"] * 2
        assert chat.history[2]["content"] == "2+2="
        assert chat.history[3]["content"] in text
        with pytest.raises(AnswerFailed, match=r"refused \(400\).*maximum context length"):
            converse(chat, ["9" * 400], Console(file=out))
        assert len(chat.history) == 4

    def test_a_benchmark_on_it_is_scored_and_a_killed_one_goes_on(self, server, tmp_path, monkeypatch):
        """vLLM's own HTTP, prompts and seeds; the second half is all that a rerun asks for, and draws are repeated."""
        items = [
            find("aime25").item({"id": n, "problem": f"{n}+1=?", "answer": str(n + 1), "license": ""}) for n in range(6)
        ]
        settings = (BenchmarkSettings(benchmark="aime25", samples=2, max_new_tokens=12),)
        config = EvaluationConfig(max_new_tokens=12, settings=settings)

        def run(root, calls_left=99):
            context = LocalContext(root, "evaluate", 5, quiet=True)
            asked = []
            with (
                EndpointSampler(Endpoint(server.base_url, server.model, concurrency=1)) as sampler,
                ExitStack() as held,
            ):
                parts = sampler.parts

                def counted(requests, drawing):
                    if len(asked) == calls_left:
                        raise KeyboardInterrupt("killed")
                    asked.append(len(requests))
                    yield from parts(requests, drawing)

                monkeypatch.setattr(sampler, "parts", counted)
                grading = open_grading(held, items, "", context.execution, {}, root / "judge.jsonl")
                suites = suites_of({"aime25": items}, config)
                return asked, run_suites(sampler, suites, config, grading, context, sampler.facts)

        _, whole = run(tmp_path / "whole")
        assert (whole.overall.answers, whole.overall.errors) == (12, 0)
        assert whole.settings["max_model_len"] == 256
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", calls_left=1)
        asked, resumed = run(tmp_path / "killed")
        assert asked == [4, 4], "of three waves the first was kept"
        assert [answer.response for answer in resumed.answers] == [answer.response for answer in whole.answers]

    def test_the_port_is_taken_now(self, server, tmp_path):
        port = int(server.base_url.split(":")[2].split("/")[0])
        model = write_random_model(tmp_path / "model")
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1:{port}"), start(model, ServeOptions(port=port)):
            pass


def test_yarn_stretches_a_configuration_once(tmp_path):
    path = tmp_path / "config.json"
    rope = {"rope_type": "default", "rope_theta": 600000.0, "partial_rotary_factor": 0.5}
    path.write_text(json.dumps({"max_position_embeddings": 512, "rope_parameters": rope}))
    found = stretched(path, 2.0)
    assert found["max_position_embeddings"] == 1024
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}
    assert found["rope_parameters"] == rope | yarn
    path.write_text(json.dumps({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4}}))
    with pytest.raises(BadInput, match="linear already"):
        stretched(path, 2.0)


def test_chat_without_a_server_says_how_to_start_one():
    with pytest.raises(InfrastructureError, match="ringflow serve"):
        converse(Chat(f"http://127.0.0.1:{free_port()}/v1"), ["hello"])


def test_a_server_ends_with_the_process_that_started_it_also_by_kill_9(tmp_path):
    waits = (
        "import time\nfrom components.release.vllm_server import end_with_parent\n"
        "end_with_parent()\nprint('on', flush=True)\ntime.sleep(60)\n"
    )
    starts = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {waits!r}], stdout=subprocess.PIPE, text=True,\n"
        f"    env=os.environ | {{{PARENT!r}: str(os.getpid())}})\n"
        "print(child.stdout.readline().strip(), child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        said, pid = parent.stdout.readline().split()
        assert said == "on"
        child = psutil.Process(int(pid))
        parent.kill()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()


def test_the_last_words_of_a_log_begin_with_its_first_errors(tmp_path):
    log = tmp_path / "log"
    log.write_text("start\nEngine: OSError: no room left\n" + "at line\n" * 40 + "RuntimeError: Engine core failed\n")
    said = _last_words(log)
    assert said.startswith("its first errors:\nEngine: OSError: no room left\nend of ")
    assert said.endswith("RuntimeError: Engine core failed")
    log.write_text("ValueError: one\n")
    assert _last_words(log) == f"end of {log}:\nValueError: one"
