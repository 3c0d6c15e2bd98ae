"""A judge for tests and trials over real HTTP: it answers in the form that each benchmark asks for, or fails by name.

Its verdicts are rules on the texts, so that scores are known: the longer answer wins, a criterion is met when its last
word stands in the answer, a proof is worth the number of its last line. Models called broken, stalls or nonsense do so.
`python -m tests.components.evaluation.judges` serves it and prints its address.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_S = 2.0


def verdict(messages: list[dict]) -> str:
    text = messages[-1]["content"] if messages[-1]["role"] == "user" else ""
    text = next((m["content"] for m in messages if m["role"] == "user"), text)
    if "<|Answer of A|>" in text:
        a, b = (text.split(f"<|Answer of {name}|>\n")[1].split(f"\n<|End of {name}|>")[0] for name in "AB")
        return "So be it. [[A>B]]" if len(a) > len(b) else "[[B>A]]" if len(b) > len(a) else "[[A=B]]"
    if "# Criterion" in text:
        conversation, criterion = text.split("# Criterion")
        met = criterion.split()[-1] in conversation.split("[assistant]")[-1]
        return f'```json\n{{"explanation": "the word", "criteria_met": {str(met).lower()}}}\n```'
    if "[WRITER A0493]" in text:
        a, b = (part.split("]", 1)[1] for part in text.split("[WRITER")[1:])
        return json.dumps({"writing_quality": f"{'A0493' if len(a) >= len(b) else 'A0488'}++"})
    if "# Solution" in text:
        last = re.findall(r"\d", text.split("# Solution")[1].split("End with JSON")[0]) or ["0"]
        return json.dumps({"points": min(7, int(last[-1])), "gaps": ["a step is missing"]})
    return "Nuanced Characters: 12\nPurple Prose: 5"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Counter

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked[body["model"]] += 1
        if body["model"] == "broken":
            return self._send(503, {"error": "down"})
        if body["model"] == "stalls":
            threading.Event().wait(STALL_S)
        text = "I like both." if body["model"] == "nonsense" else verdict(body["messages"])
        return self._send(200, {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 10}})

    def _send(self, status: int, data: dict) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except OSError:  # whoever asked has given up
            self.close_connection = True


@contextmanager
def judge_server() -> Iterator[str]:
    """The base URL of a judge that ends with the block."""
    Handler.asked = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


if __name__ == "__main__":
    with judge_server() as url:
        print(url, flush=True)
        sys.stdin.read()
