"""Small servers on real sockets that answer by a script, for tests of what talks to the orchestrator."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

from websockets.sync.server import ServerConnection, serve

JOB = UUID("11111111-2222-3333-4444-555555555555")
NOW = "2026-01-01T00:00:00Z"
HEALTH = {"status": "ok", "ready": True, "version": "1", "engine": None}


def job_json(status: str = "queued", **changes: object) -> dict[str, object]:
    return {
        "id": str(JOB), "type": "train_sae", "name": "one", "owner": "default", "priority": 0, "tags": [],
        "status": status, "intent": "run", "phase": "", "params": {}, "resources": {}, "created_at": NOW,
        "started_at": None, "completed_at": None, "wait": None, "failure": None, "progress": None, "metrics": None,
        "results": None, "restarted_from": None, "attempts": 0, "log_path": None, "result_path": None,
        "attempt_list": [], "commands": [], "available_actions": [],
    } | changes  # fmt: skip


def error_json(code: str, message: str = "no", **details: str) -> dict[str, object]:
    return {"code": code, "message": message, "details": details, "timestamp": NOW}


@dataclass
class Answer:
    status: int = 200
    body: object = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


HANG_UP = Answer(status=0)
"""Close the connection without a word."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Script:
    """Answers in turn, the last one for ever; keeps what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def http_server(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append(Request(self.command, self.path, dict(self.headers), body))
            answer = script.next()
            if answer is HANG_UP:
                self.close_connection = True
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(content))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def socket_server(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
