"""A local server that speaks the Messages API as far as the SDK and its error handling need it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = "drop"  # a step of the plan: the connection ends in the middle of the answer


@dataclass
class Provider:
    """What the server does, and what it saw; a token is 4 bytes.

    Its cache works as Anthropic's: it keeps what ends at a block with `cache_control`, and reads the longest that it
    kept and that ends at such a block or at most 20 blocks before one.
    """

    answer: Callable[[dict[str, Any]], str] = lambda body: "an answer"
    plan: list[int | str] = field(default_factory=list)  # of the next calls: a status, or DROP; then 200
    delay: float = 0.0
    stop_reason: str = "end_turn"
    seen: list[dict[str, Any]] = field(default_factory=list)
    usages: list[dict[str, int]] = field(default_factory=list)  # of what was answered in full
    cache: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def usage(self, body: dict[str, Any], text: str) -> dict[str, int]:
        blocks = [*body["system"], *(block for message in body["messages"] for block in message["content"])]
        ends = [at for at, block in enumerate(blocks, 1) if "cache_control" in block]
        begun = ["".join(block["text"] for block in blocks[:end]) for end in range(len(blocks) + 1)]
        sizes = [len(text.encode()) // 4 for text in begun]
        with self.lock:
            near = {at for end in ends for at in range(max(0, end - 20), end + 1)}
            read = max((sizes[at] for at in near if begun[at] in self.cache), default=0)
            self.cache |= {begun[end] for end in ends}
        kept = sizes[ends[-1]] if ends else 0
        return {
            "input_tokens": sizes[-1] - kept + 5,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": kept - read,
            "output_tokens": min(body["max_tokens"], len(text.encode()) // 4 + 1),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: Provider

    def do_POST(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that no longer waits
            self._answer()

    def _answer(self) -> None:
        provider = self.provider
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with provider.lock:
            provider.seen.append({"headers": dict(self.headers), **body})
            step = provider.plan.pop(0) if provider.plan else 200
        time.sleep(provider.delay)
        if isinstance(step, int) and step != 200:
            self._send(step, {"type": "error", "error": {"type": "some_error", "message": "because"}})
            return
        text = provider.answer(body)
        usage = provider.usage(body, text)
        message = {
            "id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None,
            "stop_reason": provider.stop_reason, "content": [{"type": "text", "text": text}], "usage": usage,
        }  # fmt: skip
        if step != DROP:
            provider.usages.append(usage)
        if body.get("stream"):
            self._stream(message, text, broken=step == DROP)
        else:
            self._send(200, message, broken=step == DROP)

    def _send(self, status: int, body: dict[str, Any], broken: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if broken else data)

    def _stream(self, message: dict[str, Any], text: str, broken: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()
        start = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
        self._event("message_start", message=start)
        self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": part})
            if broken:
                return
        self._event("content_block_stop", index=0)
        delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
        self._event("message_delta", delta=delta, usage={"output_tokens": message["usage"]["output_tokens"]})
        self._event("message_stop")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, **fields: Any) -> None:
        data = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(provider: Provider) -> Iterator[str]:
    """The address of a server that does what the provider says."""
    handler = type("Handler", (Handler,), {"provider": provider})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
