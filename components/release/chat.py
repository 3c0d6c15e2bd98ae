"""A chat in the terminal with a served model: thinking folded, tokens per second, history, and piped input.

Each line is a message. `/exit` ends, `/clear` forgets the history, `/thought` unfolds the last thought, `/think on|off`
switches thinking, `/help` lists them. When stdin is not a terminal every line is a message, answered in order; the
first failed answer ends the chat with its error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.failures import InfrastructureError, RingflowError

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

HELP = "/exit  /clear  /thought (unfold the last one)  /think on|off  /help"


class AnswerFailed(RingflowError):
    """The server refused or broke off one answer; the chat can go on."""


@dataclass
class Turn:
    """One answer. tokens: as the server counts them, thought included; seconds: from asking to the last token."""

    thought: str = ""
    content: str = ""
    tokens: int = 0
    thought_tokens: int = 0
    finish: str = ""
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Chat:
    """A conversation with one served model.

    base_url: ends in /v1. model: the first one the server lists when empty. max_tokens: the server's limit when None.
    """

    base_url: str
    model: str = ""
    thinking: bool = True
    temperature: float | None = None
    max_tokens: int | None = None
    api_key: str = ""
    timeout_s: float = 300.0
    history: list[dict[str, str]] = field(default_factory=list)

    def connect(self) -> None:
        """Finds the model's name. Raises InfrastructureError when nobody answers at `base_url`."""
        import httpx

        try:
            response = httpx.get(f"{self.base_url}/models", headers=self._headers(), timeout=10.0)
            response.raise_for_status()
            served = [model["id"] for model in response.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise InfrastructureError(
                f"no OpenAI-compatible server answers at {self.base_url}: {error}. Start one with `ringflow serve`"
            ) from error
        if self.model and self.model not in served:
            raise InfrastructureError(f"{self.base_url} serves {', '.join(served)}, not {self.model}")
        self.model = self.model or served[0]

    def ask(self, message: str) -> Iterator[tuple[str, Turn]]:
        """Streams the answer: yields (`thought` or `content` text just arrived, the turn so far).

        The turn enters the history when it is complete; a failed one leaves the history as it was.

        Raises:
            AnswerFailed: the server refused the request or broke off.
        """
        import httpx

        messages = [*self.history, {"role": "user", "content": message}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "chat_template_kwargs": {"enable_thinking": self.thinking},
        }
        body |= {} if self.temperature is None else {"temperature": self.temperature}
        body |= {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        turn, asked = Turn(), time.monotonic()
        try:
            with httpx.stream(
                "POST", f"{self.base_url}/chat/completions", json=body, headers=self._headers(), timeout=self.timeout_s
            ) as response:
                if response.status_code != 200:
                    raise AnswerFailed(_refusal(response))
                for event in _events(response.iter_lines()):
                    text = _absorb(event, turn)
                    turn.seconds = time.monotonic() - asked
                    yield text, turn
        except httpx.HTTPError as error:
            raise AnswerFailed(f"the server broke off: {error}") from error
        if not turn.finish:
            raise AnswerFailed("the server ended the stream without finishing the answer")
        self.history = [*messages, {"role": "assistant", "content": turn.content}]

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def converse(chat: Chat, lines: Iterable[str] | None = None, console: Console | None = None) -> None:
    """Runs the conversation until `/exit` or the end of input.

    lines: the messages; standard input when absent, with a prompt if it is a terminal.

    Raises:
        InfrastructureError: no server. AnswerFailed: an answer failed and nobody is there to try again.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    chat.connect()
    interactive = lines is None and sys.stdin.isatty()
    if interactive:
        console.print(f"[bold]{chat.model}[/bold] at {chat.base_url}   [dim]{HELP}[/dim]")
    last = Turn()
    for line in _typed(console) if interactive else (lines if lines is not None else sys.stdin):
        message = line.strip()
        if not message:
            continue
        if message.startswith("/"):
            if message == "/exit":
                return
            _command(message, chat, last, console)
            continue
        try:
            last = _show(chat.ask(message), console, interactive)
        except AnswerFailed as error:
            if not interactive:
                raise
            console.print(f"{error}", style="red", markup=False)


def _command(message: str, chat: Chat, last: Turn, console: Console) -> None:
    if message == "/clear":
        chat.history = []
        console.print("history forgotten", style="dim")
    elif message == "/thought":
        console.print(last.thought or "no thought", style="dim", markup=False)
    elif message in ("/think on", "/think off"):
        chat.thinking = message.endswith("on")
        console.print(f"thinking {message.split()[1]}", style="dim")
    else:
        console.print(HELP, style="dim")


def _show(pieces: Iterator[tuple[str, Turn]], console: Console, interactive: bool) -> Turn:
    """Prints an answer as it arrives. The thought is one line that counts; `/thought` unfolds it."""
    turn, printed = Turn(), 0
    status = console.status("thinking", spinner="dots") if interactive else None
    if status:
        status.start()
    try:
        for _, turn in pieces:
            if turn.content and not printed:
                if status:
                    status.stop()
                _print_fold(turn, console)
            if len(turn.content) > printed:
                console.print(turn.content[printed:], end="", markup=False, soft_wrap=True)
                printed = len(turn.content)
            elif status:
                status.update(f"thinking, {turn.tokens} tokens")
    finally:
        if status:
            status.stop()
    if not printed:
        _print_fold(turn, console)
    cut = ", cut at the token limit" if turn.finish == "length" else ""
    console.print()
    console.print(f"{turn.tokens} tokens, {turn.tokens_per_second:.0f} tokens/s{cut}", style="dim")
    return turn


def _print_fold(turn: Turn, console: Console) -> None:
    if turn.thought:
        console.print(f"> thought for {turn.thought_tokens} tokens", style="dim")


def _typed(console: Console) -> Iterator[str]:
    import readline  # noqa: F401  line editing and history for input()

    while True:
        try:
            yield console.input("[bold]>[/bold] ")
        except (EOFError, KeyboardInterrupt):
            return


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events up to [DONE]. An error event raises AnswerFailed."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise AnswerFailed(str(event["error"].get("message", event["error"])))
        yield event


def _absorb(event: dict[str, Any], turn: Turn) -> str:
    """Adds one event to the turn and returns the text it brought. vLLM names thoughts `reasoning`, others differ."""
    text = ""
    for choice in event.get("choices", ()):
        delta = choice.get("delta", {})
        thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
        content = delta.get("content") or ""
        turn.thought += thought
        turn.content += content
        turn.finish = choice.get("finish_reason") or turn.finish
        text += thought + content
    if event.get("usage"):
        turn.tokens = event["usage"]["completion_tokens"]
    if not turn.content:
        turn.thought_tokens = turn.tokens
    return text


def _refusal(response: httpx.Response) -> str:
    """The server's own words."""
    body = response.read().decode(errors="replace")
    try:
        error = json.loads(body)
        message = error.get("error", error).get("message", body)
    except (ValueError, AttributeError):
        message = body
    return f"the server refused ({response.status_code}): {message}"
