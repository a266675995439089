"""Models: backends, their errors, and what they are named by."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from messages_server import DROP, Provider, serving

from evo import llm
from evo import run as evo_run
from evo.benchmark import UserMistake
from evo.chance import Chance
from evo.llm import Completion, ModelError, Prompt, Scripted, Slot, Usage

PROMPT = Prompt("the base", "the task")
LONG = Prompt("the base " * 44 + "ends", "the request.")
SECRET = "sk-secret-0123456789"


# --- backends


def opened(spec: str) -> llm.Model:
    models = llm.open_models(spec)
    assert models is not None
    return models.weighted[0][0]


def test_a_command_gets_the_prompt_and_gives_the_answer():
    model = opened(f"command:{sys.executable} -c 'import sys; print(sys.stdin.read().upper())'")
    assert model.complete(PROMPT, Slot(0, 0)).text == "THE BASE\n\nTHE TASK\n"
    with pytest.raises(ModelError, match="exited with 3: no"):
        opened(f"command:{sys.executable} -c 'import sys; sys.exit(sys.stderr.write(\"no\") + 1)'").complete(
            PROMPT, Slot(0, 0)
        )
    with pytest.raises(ModelError, match="No such file"):
        llm.Command(("/nowhere/model",)).complete(PROMPT, Slot(0, 0))


def test_an_inbox_waits_for_its_answer(tmp_path):
    def person(_: float) -> None:
        question = tmp_path / "in" / "2-7-0.prompt.md"
        (tmp_path / "in" / "2-7-0.answer.md").write_text(question.read_text() + "!")

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "2-7-0.prompt.md").write_text("what an interrupted run asked")
    (tmp_path / "in" / "2-7-0.answer.md").write_text("its answer")

    inbox = llm.Inbox(tmp_path / "in", sleep=person)
    assert inbox.complete(PROMPT, Slot(2, 7)).text.endswith("the task!")
    assert (tmp_path / "in" / "2-7-0.stale.md").read_text() == "its answer"
    with pytest.raises(ModelError, match=r"no 2-8-0\.answer\.md within 1 s"):
        llm.Inbox(tmp_path / "in", sleep=lambda _: None, timeout_s=1.0).complete(PROMPT, Slot(2, 8))


@pytest.mark.parametrize("spec", ["", "oracle:x", "anthropic:", "none:x", "repair=anthropic:x", "anthropic:x*0"])
def test_a_spec_that_means_nothing_is_refused(spec):
    with pytest.raises(UserMistake, match="--model"):
        llm.open_models(spec)


def test_whatever_a_backend_raises_is_one_kind_of_failure():
    def broken(prompt: Prompt, slot: Slot) -> str:
        raise KeyError("surprise")

    with pytest.raises(ModelError, match="KeyError: 'surprise'"):
        llm.ask(Scripted(broken), PROMPT, Slot(0, 0))


@pytest.fixture
def provider(monkeypatch) -> Iterator[Provider]:
    found = Provider()
    with serving(found) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
        yield found


@pytest.mark.parametrize("stream", ["on", "off"])
def test_the_official_sdk_caches_the_prefix_and_counts(provider, stream):
    model = opened(f"anthropic:fake?stream={stream}")
    assert model.complete(LONG, Slot(0, 0)) == Completion("an answer", "fake", Usage(8, 0, 100, 3))
    assert model.complete(LONG, Slot(0, 1)).usage == Usage(8, 100, 0, 3)
    call = provider.seen[0]
    assert call["system"][0]["cache_control"] == {"type": "ephemeral"} and call["system"][0]["text"] == LONG.prefix
    assert bool(call.get("stream")) == (stream == "on")
    assert [value for value in call["headers"].values() if value.endswith(SECRET)]


def test_options_of_a_call_stand_behind_the_model(provider):
    address = os.environ.pop("ANTHROPIC_BASE_URL")
    spec = f"anthropic:fake?base_url={address}&max_tokens=4000&thinking=2000&timeout=5&retries=0"
    assert opened(spec).complete(PROMPT, Slot(0, 0)).text == "an answer"
    assert opened(f"anthropic:fake?base_url={address}&thinking=adaptive").complete(PROMPT, Slot(0, 0))
    first, second = provider.seen
    assert first["max_tokens"] == 4000 and first["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert second["thinking"] == {"type": "adaptive"}
    for wrong in ("anthropic:fake?temperature=1", "anthropic:fake?max_tokens=many", "anthropic:fake?stream=maybe"):
        with pytest.raises(UserMistake, match="anthropic:fake"):
            llm.open_models(wrong)


@pytest.mark.parametrize(
    ("step", "name", "billed", "hopeless"),
    [
        (400, "BadRequestError", False, False),
        (401, "AuthenticationError", False, True),
        (404, "NotFoundError", False, True),
        (429, "RateLimitError", False, False),
        (529, "OverloadedError", False, False),
        (DROP, "RemoteProtocolError", True, False),
    ],
)
def test_every_class_of_error_is_a_model_error(provider, step, name, billed, hopeless):
    provider.plan = [step]
    with pytest.raises(ModelError, match=name) as found:
        llm.ask(llm.Anthropic("fake", retries=0), PROMPT, Slot(0, 0))
    assert (found.value.billed, found.value.hopeless) == (billed, hopeless)
    assert llm.ask(llm.Anthropic("fake", retries=0), PROMPT, Slot(0, 0)).text == "an answer"


def test_a_dropped_answer_without_a_stream_is_a_model_error(provider):
    provider.plan = [DROP]
    with pytest.raises(ModelError, match="Error"):
        llm.ask(llm.Anthropic("fake", retries=0, stream=False), PROMPT, Slot(0, 0))


def test_a_time_out_may_have_cost_and_a_refused_connection_has_not(provider, monkeypatch):
    provider.delay = 0.5
    with pytest.raises(ModelError, match="APITimeoutError") as found:
        llm.ask(llm.Anthropic("fake", retries=0, timeout=0.1), PROMPT, Slot(0, 0))
    assert found.value.billed
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="APIConnectionError") as found:
        llm.ask(llm.Anthropic("fake", retries=0), PROMPT, Slot(0, 0))
    assert not found.value.billed


def test_the_sdk_retries_what_may_pass_and_no_more_often_than_told(provider, monkeypatch):
    import anthropic

    monkeypatch.setattr(anthropic.Anthropic, "_calculate_retry_timeout", lambda *_, **__: 0.0)
    provider.plan = [529]
    assert llm.Anthropic("fake", retries=1).complete(PROMPT, Slot(0, 0)).text == "an answer"
    assert len(provider.seen) == 2
    provider.plan = [429] * 9
    with pytest.raises(ModelError, match="RateLimitError"):
        llm.Anthropic("fake", retries=2).complete(PROMPT, Slot(0, 0))
    assert len(provider.seen) == 5


def test_without_a_key_the_reason_says_so(provider, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ModelError, match="api_key") as found:
        llm.ask(llm.Anthropic("fake"), PROMPT, Slot(0, 0))
    assert found.value.hopeless


def test_an_answer_that_reached_its_limit_says_so(provider):
    provider.stop_reason = "max_tokens"
    assert llm.ask(llm.Anthropic("fake"), PROMPT, Slot(0, 0)).cut


def test_no_key_comes_back_from_a_call(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET + "\n")  # the SDK quotes a key that no header can hold
    with pytest.raises(ModelError) as found:
        llm.ask(llm.Anthropic("fake", base_url="http://127.0.0.1:9", retries=0), PROMPT, Slot(0, 0))
    assert SECRET not in str(found.value)
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    answer = llm.ask(llm.Command(("sh", "-c", "echo key: $ANTHROPIC_API_KEY")), PROMPT, Slot(0, 0))
    assert answer.text == "key: [ANTHROPIC_API_KEY]\n"


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path):
    command = llm.Command(("sh", "-c", f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait"), timeout_s=0.3)
    with pytest.raises(ModelError, match="no answer within"):
        llm.ask(command, PROMPT, Slot(0, 0))
    child = (tmp_path / "pid").read_text().strip()
    stat = Path(f"/proc/{child}/stat")
    until = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "still running"
        time.sleep(0.02)


def test_several_models_share_by_weight_and_one_repairs(tmp_path):
    (tmp_path / "a").write_text("one\n=====\ntwo\n")
    (tmp_path / "b").write_text("three\n")
    spec = f"scripted:{tmp_path / 'a'}*3,scripted:{tmp_path / 'b'},repair=command:echo 'a,b*2'"
    models = llm.open_models(spec)
    assert models is not None and [weight for _, weight in models.weighted] == [3.0, 1.0]
    chosen = [models.chosen("improve", Chance(0, 0, n)) for n in range(400)]
    assert 250 < sum(model is models.weighted[0][0] for model in chosen) < 350
    assert chosen == [models.chosen("improve", Chance(0, 0, n)) for n in range(400)]
    assert models.chosen("repair", Chance(0, 0, 1)).complete(PROMPT, Slot(0, 0)).text == "a,b*2\n"
    assert [models.weighted[0][0].complete(PROMPT, Slot(0, n)).text for n in range(3)] == ["one\n", "two\n", "one\n"]


def test_a_worker_that_only_judges_gets_no_key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    assert SECRET not in evo_run.surroundings("judge").values() and "PATH" in evo_run.surroundings("judge")
    assert SECRET in evo_run.surroundings("propose").values()
