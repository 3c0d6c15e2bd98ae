"""A small OpenAI-compatible server for tests, as a process of its own: `python judge_server.py` prints its port.

How it judges, and how it fails, is chosen by the model's name; what it was asked is told by GET /asked.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ASKED: list[dict] = []
LOCK = threading.Lock()


def part(text: str, name: str) -> str:
    return re.search(rf"<{name} (\w+)>\n(.*?)\n</{name} \1>", text, re.DOTALL).group(2)


def judged(model: str, messages: list[dict]) -> str:
    text = next(message["content"] for message in messages if message["role"] == "user")
    if "CRITERIA" in text:
        answer, listed = part(text, "RESPONSE"), part(text, "CRITERIA").splitlines()
        met = [line.split(" ", 1)[1].removeprefix("mentions ") in answer for line in listed]
        return "So be it.\n" + json.dumps({"met": met})
    first, second = part(text, "RESPONSE A"), part(text, "RESPONSE B")
    if model.startswith("first"):
        return "The first one is better. [[A]]"
    if model.startswith("shortest"):
        first, second = second, first
    sign = (len(first) > len(second)) - (len(first) < len(second))
    return f"<think>[[C]] or [[B]]?</think>Their lengths decide: [[{'BCA'[sign + 1]}]]"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with LOCK:
            self.reply(200, ASKED)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = body["model"]
        with LOCK:
            ASKED.append(body | {"authorization": self.headers.get("Authorization")})
            count = sum(asked["model"] == model for asked in ASKED)
        if model.startswith("stalls"):
            time.sleep(30)
        if (model.startswith("flaky") and count % 3) or model.startswith("broken"):
            return self.reply(500 if count % 2 else 503, {"error": "busy"})
        if model.startswith("limited") and count == 1:
            return self.reply(429, {"error": "slow down"}, {"Retry-After": "0.2"})
        if model.startswith("refuses"):
            return self.reply(401, {"error": "who are you"})
        if model.startswith("hangs-up"):
            self.close_connection = True
            return self.connection.close()
        if model.startswith("html"):
            return self.reply(200, "<html>Welcome</html>")
        text = "I like them both very much." if model.startswith("nonsense") else judged(model, body["messages"])
        if model.startswith("second-thoughts") and len(body["messages"]) == 2:
            text = "Hard to say."
        usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
        return self.reply(200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})

    def reply(self, status: int, data: object, headers: dict | None = None) -> None:
        payload = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends with the test that started it
