"""A small OpenAI-compatible server in its own process, with the moods of real ones."""

from __future__ import annotations

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def reply(prompt: str) -> str:
    """A usable answer: the last word is dropped."""
    text = " ".join(prompt.split()[:-1])
    return json.dumps({"variants": [{"text": text, "kind": "drop_object", "change": "last word left out"}]})


class Handler(BaseHTTPRequestHandler):
    mood = "good"
    log: Path
    lock = threading.Lock()
    calls = 0
    running = 0

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"].removeprefix("Prompt: ")
        cls = type(self)
        with cls.lock:
            cls.calls += 1
            cls.running += 1
            number, running = cls.calls, cls.running
            entry = {
                "path": self.path,
                "prompt": prompt,
                "number": number,
                "running": running,
                "time": time.monotonic(),
                "authorization": self.headers.get("Authorization"),
                "format": (body.get("response_format") or {}).get("type"),
            }
            with self.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        try:
            getattr(self, f"_{self.mood}")(prompt, number, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with cls.lock:
                cls.running -= 1

    def _send(self, code: int, body: str, **headers: str) -> None:
        data = body.encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _content(self, content: str) -> None:
        self._send(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}))

    def _good(self, prompt: str, number: int, body: dict) -> None:
        time.sleep(0.02)
        self._content(reply(prompt))

    def _failing(self, prompt: str, number: int, body: dict) -> None:
        # every odd call fails in another way
        if number % 2 == 0:
            self._content(reply(prompt))
        elif number % 4 == 1:
            self._send(500, "boom")
        else:
            self.connection.close()

    def _limited(self, prompt: str, number: int, body: dict) -> None:
        if number <= 2:
            self._send(429, "slow down", Retry_After="0.3")
        else:
            self._content(reply(prompt))

    def _always_limited(self, prompt: str, number: int, body: dict) -> None:
        self._send(429, "slow down")

    def _garbage(self, prompt: str, number: int, body: dict) -> None:
        bodies = ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "\x00\xff"]
        self._send(200, bodies[number % len(bodies)])

    def _slow_for_one(self, prompt: str, number: int, body: dict) -> None:
        if "slow" in prompt:
            time.sleep(3)
        self._content(reply(prompt))

    stumbles = 0

    def _stumbling(self, prompt: str, number: int, body: dict) -> None:
        # one prompt fails twice, then works
        if "stubborn" in prompt and type(self).stumbles < 2:
            type(self).stumbles += 1
            self._send(500, "boom")
        else:
            self._content(reply(prompt))

    def _dripping(self, prompt: str, number: int, body: dict) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def _no_schema(self, prompt: str, number: int, body: dict) -> None:
        if "response_format" in body:
            self._send(400, '{"error": "response_format is not supported"}')
        else:
            self._content(reply(prompt))

    def _secretive(self, prompt: str, number: int, body: dict) -> None:
        self._send(404, f"no model for {self.headers.get('Authorization')}")

    def _locked(self, prompt: str, number: int, body: dict) -> None:
        self._send(401, "no")

    def _redirecting(self, prompt: str, number: int, body: dict) -> None:
        self._send(307, "", Location="http://127.0.0.1:9/steal")

    def _refusing_one(self, prompt: str, number: int, body: dict) -> None:
        if "long" in prompt:
            self._send(400, "context length exceeded")
        else:
            self._content(reply(prompt))

    def log_message(self, *arguments: object) -> None:
        return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mood")
    parser.add_argument("log", type=Path)
    arguments = parser.parse_args()
    Handler.mood, Handler.log = arguments.mood, arguments.log
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
