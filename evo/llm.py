"""Language models behind one small interface: a prompt in, a completion with its usage out."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from evo.benchmark import UserMistake
from evo.chance import Chance

POLL_S = 0.5
KEPT = {"type": "ephemeral"}  # up to here a provider keeps what it has read, for five minutes after each use
SPECS = "none, anthropic:MODEL, command:ARGV, inbox:DIR, scripted:FILE, replay:FILE"


class ModelError(Exception):
    """A call that brought no answer: the world's fault, written down and tried again with the next proposal.

    `billed` is False only where the provider certainly charges nothing. `hopeless` means that no later call can fare
    better: a key or a model's name that is refused.
    """

    def __init__(self, reason: str, *, billed: bool = True, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.billed = billed
        self.hopeless = hopeless


@dataclass(frozen=True)
class Prompt:
    """`prefix` is the same in every call of a run and `record` only grows, so that a provider can keep both.

    `request` is this call's own.
    """

    prefix: str
    request: str
    record: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "\n\n".join([self.prefix, *self.record, self.request])


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them; `input` is what was neither read from nor written to its cache."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0


@dataclass(frozen=True)
class Completion:
    text: str
    model: str
    usage: Usage = Usage()
    cut: bool = False  # the answer ended because it reached its limit


@dataclass(frozen=True)
class Slot:
    """Which call this is: the same on every machine, so that a recorded run can be played back."""

    thread: int
    number: int
    attempt: int = 0

    @property
    def name(self) -> str:
        return f"{self.thread}-{self.number}-{self.attempt}"


class Model(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens that an answer may have; None where nobody counts tokens, or bills them."""
        ...

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        """Answers or raises ModelError; never answers half."""
        ...


@dataclass(frozen=True)
class Anthropic:
    """Anthropic's SDK; any server that speaks the Messages API serves by `base_url`, or by ANTHROPIC_BASE_URL.

    The key is read by the SDK from the environment and is nowhere else. Extended thinking is `adaptive`, or a number of
    tokens for models that still take one; its tokens count as output.
    """

    name: str
    max_tokens: int = 16_000  # of an answer, thinking included
    timeout: float = 600.0  # seconds without a byte
    retries: int = 2  # by the SDK, with its own back-off, for 408, 409, 429 and 5xx; a broken stream is not retried
    stream: bool = True  # a long answer that comes at once meets time-outs on its way
    thinking: str = ""
    base_url: str | None = None

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens

    @cached_property
    def _client(self) -> Any:
        import anthropic  # 1.5 s, and only who calls a model pays it

        return anthropic.Anthropic(base_url=self.base_url, timeout=self.timeout, max_retries=self.retries)

    def lacking(self) -> str:
        """Why no call could be signed, or an empty text: the SDK takes a variable, a profile or a federation."""
        if any(os.environ.get(f"ANTHROPIC_{name}") for name in ("API_KEY", "AUTH_TOKEN", "CUSTOM_HEADERS")):
            return ""
        import anthropic

        try:
            return "" if self._client.credentials is not None else "found none"
        except anthropic.AnthropicError as error:  # a profile that cannot be read
            return _said(error)

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        import anthropic
        import httpx2

        call: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self.max_tokens,
            "system": [{"type": "text", "text": prompt.prefix, "cache_control": KEPT}],
            "messages": [{"role": "user", "content": _content(prompt)}],
        }
        if self.thinking:
            tokens = {"type": "enabled", "budget_tokens": int(self.thinking)} if self.thinking.isdigit() else None
            call["thinking"] = tokens or {"type": self.thinking}
        try:
            if self.stream:
                with self._client.messages.stream(**call) as stream:
                    answer: Any = stream.get_final_message()
            else:
                answer = self._client.messages.create(**call)
        except anthropic.APIStatusError as error:
            hopeless = error.status_code in (401, 403, 404)
            raise ModelError(_said(error), billed=False, hopeless=hopeless) from error
        except anthropic.APIConnectionError as error:
            raise ModelError(_said(error), billed=not isinstance(error.__cause__, httpx2.ConnectError)) from error
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:  # a stream that breaks off comes as the latter
            raise ModelError(_said(error)) from error
        except TypeError as error:  # what the SDK raises where it finds no key
            raise ModelError(_said(error), billed=False, hopeless=True) from error
        text = "".join(block.text for block in answer.content if block.type == "text")
        used = answer.usage
        read, written = used.cache_read_input_tokens or 0, used.cache_creation_input_tokens or 0
        usage = Usage(used.input_tokens, read, written, used.output_tokens)
        return Completion(text, self.name, usage, answer.stop_reason == "max_tokens")


def _content(prompt: Prompt) -> list[dict[str, Any]]:
    """A block for each part of the record, the last of them marked: a provider finds what it kept up to 20 before.

    They are the user's blocks and not the system's, since models and programs wrote most of what is in them.
    """
    blocks: list[dict[str, Any]] = [{"type": "text", "text": f"{part}\n\n"} for part in prompt.record]
    if blocks:
        blocks[-1]["cache_control"] = KEPT
    return [*blocks, {"type": "text", "text": prompt.request}]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Command:
    """Any program: the prompt on its standard input, the answer on its standard output. It is ended as a group."""

    argv: Sequence[str]
    timeout_s: float = 600.0
    answer_tokens: None = None

    @property
    def name(self) -> str:
        return self.argv[0]

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                self.argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
            )
        except OSError as error:
            raise ModelError(f"{self.name}: {error}", billed=False, hopeless=True) from error
        end = partial(_end, process)
        atexit.register(end)  # a worker that stops does not wait for the call
        try:
            out, err = process.communicate(prompt.text, timeout=self.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{self.name}: no answer within {self.timeout_s:g} s") from error
        finally:
            end()
            atexit.unregister(end)
        if process.returncode:
            raise ModelError(f"{self.name} exited with {process.returncode}: {err[-500:]}")
        return Completion(out, self.name)


def _end(process: subprocess.Popen[str]) -> None:
    """Kills a program and what it started; what is gone already is left alone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Inbox:
    """Prompts and answers as files, for a person or an agent: `<slot>.prompt.md` waits for `<slot>.answer.md`.

    A slot is thread-number-attempt; several may wait at once. Files appear whole, by renaming; an answer may be
    written in place, since it is read only once it holds still.
    """

    folder: Path
    sleep: Callable[[float], None] = time.sleep
    timeout_s: float = 24 * 3600.0
    name: str = "inbox"
    answer_tokens: None = None

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        self.folder.mkdir(parents=True, exist_ok=True)
        question, answer = self.folder / f"{slot.name}.prompt.md", self.folder / f"{slot.name}.answer.md"
        if not question.exists() or question.read_text() != prompt.text:
            if answer.exists():  # of an interrupted run that asked something else under this name
                answer.replace(self.folder / f"{slot.name}.stale.md")
            pending = self.folder / f".{slot.name}.prompt"
            pending.write_text(prompt.text)
            pending.replace(question)
        waited, before = 0.0, ""
        while not (text := answer.read_text() if answer.exists() else "").strip() or text != before:
            if waited >= self.timeout_s:
                raise ModelError(f"no {answer.name} within {self.timeout_s:g} s")
            before = text
            self.sleep(POLL_S)
            waited += POLL_S
        return Completion(text, self.name)


def inbox(folder: Path) -> Inbox:
    if folder.exists() and not folder.is_dir():
        raise UserMistake(f"--model inbox:{folder}: expected a folder, found a file")
    return Inbox(folder)


@dataclass(frozen=True)
class Scripted:
    """Answers from a function; for tests and demonstrations."""

    answer: Callable[[Prompt, Slot], str]
    name: str = "scripted"
    answer_tokens: None = None

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        return Completion(self.answer(prompt, slot), self.name)


def script(file: Path) -> Scripted:
    """Answers from a file, one between two lines of `=====` and over again; which one, thread and number decide."""
    try:
        answers = [text.strip("\n") + "\n" for text in re.split(r"^=====[ \t]*\n", file.read_text(), flags=re.M)]
    except OSError as error:
        raise UserMistake(f"--model scripted:{file}: expected a file of answers ({error.strerror})") from error
    return Scripted(lambda _, slot: answers[(slot.thread + slot.number + slot.attempt) % len(answers)])


def ask(model: Model, prompt: Prompt, slot: Slot) -> Completion:
    """One call; whatever goes wrong inside a backend is a ModelError here, and no secret leaves with it."""
    try:
        found = model.complete(prompt, slot)
    except ModelError as error:
        raise ModelError(_without_secrets(str(error)), billed=error.billed, hopeless=error.hopeless) from error
    except Exception as error:
        raise ModelError(_without_secrets(_said(error))) from error
    return replace(found, text=_without_secrets(found.text))


def _without_secrets(text: str) -> str:
    """A text without the values of this process's keys: an SDK quotes a malformed one, a command may print them."""
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search("KEY|TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, f"[{name}]")
    return text


def asked(model: Model, prompt: Prompt, slot: Slot) -> Future[Completion]:
    """The same call in the background. Its thread is a daemon: a worker that is told to stop need not wait for it."""
    answer: Future[Completion] = Future()

    def call() -> None:
        try:
            answer.set_result(ask(model, prompt, slot))
        except ModelError as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True, name=f"call-{slot.name}").start()
    return answer


@dataclass(frozen=True)
class Models:
    """Who writes: models with fixed weights, and perhaps one that is asked for repairs only."""

    weighted: tuple[tuple[Model, float], ...]
    repairer: Model | None = None

    @property
    def all(self) -> list[Model]:
        return [model for model, _ in self.weighted] + ([self.repairer] if self.repairer else [])

    def without(self, model: Model) -> Models | None:
        """What is left once a model is given up; None if nobody writes any more."""
        weighted = tuple(pair for pair in self.weighted if pair[0] is not model)
        return Models(weighted, None if self.repairer is model else self.repairer) if weighted else None

    def chosen(self, task: str, chance: Chance) -> Model:
        """The model of one proposal: a draw that the seed, the thread and the number decide."""
        if task == "repair" and self.repairer is not None:
            return self.repairer
        models, weights = zip(*self.weighted, strict=True)
        return chance.pick("model", models, weights)


def open_models(spec: str) -> Models | None:
    """The models that a `--model` names; None for none. Raises UserMistake for a spec that is none of SPECS.

    Several are separated by commas; `*N` behind one gives its weight, `repair=` before one asks it for repairs only.
    """
    if spec == "none":
        return None
    weighted: list[tuple[Model, float]] = []
    repairer = None
    for part in re.split(rf",(?=(?:repair=)?(?:{'|'.join(MAKERS)}):)", spec):
        named, weight = re.fullmatch(r"(.*?)(?:\*(\d+(?:\.\d+)?))?", part, re.S).groups()  # type: ignore[union-attr]
        if named.startswith("repair="):
            repairer = _opened(named.removeprefix("repair="), spec)
        else:
            weighted.append((_opened(named, spec), float(weight or 1)))
    if not weighted or not sum(share for _, share in weighted) > 0:
        raise UserMistake(f"--model: expected at least one model that writes, with a weight above 0; found '{spec}'")
    return Models(tuple(weighted), repairer)


def require_keys(models: Models) -> None:
    """Raises UserMistake where a call would leave without a key, before anything begins."""
    for model in models.all:
        if isinstance(model, Anthropic) and (reason := model.lacking()):
            raise UserMistake(
                f"--model anthropic:{model.name}: expected a key, {reason}; set ANTHROPIC_API_KEY "
                "(for a server of your own any word may do)"
            )


def _opened(part: str, spec: str) -> Model:
    kind, _, rest = part.partition(":")
    if kind not in MAKERS or not rest:
        raise UserMistake(f"--model: expected one of {SPECS}; found '{spec}'")
    return MAKERS[kind](rest)


def _anthropic(rest: str) -> Anthropic:
    """`MODEL?option=value&...`; the options are the fields of Anthropic."""
    name, _, query = rest.partition("?")
    found: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in OPTIONS:
            raise UserMistake(f"--model anthropic:{rest}: unknown option '{key}'; valid are {', '.join(OPTIONS)}")
        try:
            found[key] = OPTIONS[key](value)
        except (ValueError, KeyError) as error:
            raise UserMistake(f"--model anthropic:{rest}: {key} cannot be '{value}'") from error
    return Anthropic(name, **found)


OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "max_tokens": int,
    "timeout": float,
    "retries": int,
    "stream": lambda text: {"on": True, "off": False}[text],
    "thinking": lambda text: str(int(text)) if text.isdigit() else {"adaptive": text, "disabled": text}[text],
    "base_url": str,
}
MAKERS: Mapping[str, Callable[[str], Model]] = {
    "anthropic": _anthropic,
    "command": lambda argv: Command(tuple(shlex.split(argv))),
    "inbox": lambda folder: inbox(Path(folder)),
    "scripted": lambda file: script(Path(file)),
}
