"""Prices, caps that parallel workers cannot overrun, and what a run says it cost."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from conftest import TableJudge, new_worker
from messages_server import Provider, serving

from evo import inspect, ledger, llm
from evo import run as evo_run
from evo.benchmark import UserMistake
from evo.ledger import Caps, Ledger, Prices, Room, Ticket, read_prices
from evo.llm import Anthropic, Models, Prompt, Scripted, Slot, Usage
from evo.recording import Recorder

PRICES = Prices("today", {"fake": ledger.Price(input=10.0, cache_write=12.0, cache_read=1.0, output=50.0)})
PROMPT = Prompt("the base " * 100, "the request")
SECRET = "sk-secret-0123456789"


@pytest.fixture
def provider(monkeypatch):
    found = Provider(delay=0.02)
    with serving(found) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
        yield found


def paid(usage: dict[str, int]) -> float:
    rates = {"input_tokens": 10, "cache_creation_input_tokens": 12, "cache_read_input_tokens": 1, "output_tokens": 50}
    return sum(rates[key] * count for key, count in usage.items()) / 1e6


@pytest.mark.parametrize("caps", [Caps(calls=30), Caps(tokens=16_000), Caps(usd=0.12)], ids=["calls", "tokens", "usd"])
def test_eight_workers_cannot_overrun_a_cap_at_a_slow_provider(provider, tmp_path, caps):
    """Each worker calls until there is no ticket; what the provider served is counted at the provider."""

    def work() -> None:
        own = Ledger(tmp_path / "tickets", caps, PRICES)
        while (ticket := own.take(model, PROMPT)) is not Room.NONE:
            if isinstance(ticket, Ticket):
                own.settle(ticket, "fake", model.complete(PROMPT, Slot(0, ticket.number)).usage, True)

    model = Anthropic("fake", max_tokens=1000)
    provider.answer = lambda body: "x" * 3200
    crew = [threading.Thread(target=work) for _ in range(8)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    tokens, usd = sum(sum(u.values()) for u in provider.usages), sum(map(paid, provider.usages))
    if caps.calls is not None:
        assert len(provider.seen) == 30
    if caps.tokens is not None:
        assert 12_000 < tokens <= caps.tokens  # the last tickets stay unused: a call might need all of one
    if caps.usd is not None:
        assert 0.06 < usd <= caps.usd


def _take(folder: Path, wins: multiprocessing.Queue) -> None:
    own, model = Ledger(folder, Caps(calls=50), PRICES), Scripted(lambda *_: "")
    wins.put(sum(isinstance(own.take(model, PROMPT), Ticket) for _ in range(20)))


def test_eight_processes_share_the_tickets_of_a_cap(tmp_path):
    context = multiprocessing.get_context("fork")
    wins = context.Queue()
    crew = [context.Process(target=_take, args=(tmp_path / "tickets", wins)) for _ in range(8)]
    for one in crew:
        one.start()
    assert sum(wins.get(timeout=30) for _ in crew) == 50


def test_a_ticket_stays_spent_where_the_call_may_have_been_billed(tmp_path):
    model = Anthropic("fake", max_tokens=1000)
    own = Ledger(tmp_path / "tickets", Caps(), PRICES)
    tokens, usd = own.bound(model, PROMPT)
    capped = Ledger(tmp_path / "tickets", Caps(usd=1.5 * usd), PRICES)
    refused = capped.take(model, PROMPT)
    assert isinstance(refused, Ticket) and capped.take(model, PROMPT) is Room.LATER
    assert capped.settle(refused, "fake", None, billed=False) == 0.0
    dropped = capped.take(model, PROMPT)
    assert isinstance(dropped, Ticket) and (dropped.tokens, dropped.usd) == (tokens, usd)
    capped.settle(dropped, "fake", None, billed=True)
    assert capped.take(model, PROMPT) is Room.NONE


def test_a_ticket_of_a_worker_that_is_gone_counts_as_spent(tmp_path):
    model = Anthropic("fake", max_tokens=1000)
    own = Ledger(tmp_path / "tickets", Caps(usd=0.1), PRICES)
    gone = own.take(model, PROMPT)
    assert isinstance(gone, Ticket) and own.take(model, PROMPT) is Room.LATER
    os.utime(tmp_path / "tickets" / "0", (0, 0))
    assert own.take(model, PROMPT) is Room.NONE


def test_prices_follow_the_table_and_a_user_overrides_it(tmp_path):
    shipped = read_prices()
    assert shipped.date and shipped.of("claude-sonnet-4-5-20250929") == shipped.models["claude-sonnet-4-5"]
    assert shipped.of("claude-sonnet-4-5-next") is None
    sonnet = shipped.models["claude-sonnet-4-5"]
    assert sonnet.usd(Usage(1_000_000, 0, 0, 1_000_000)) == pytest.approx(18.0)
    assert sonnet.usd(Usage(0, 1_000_000, 1_000_000, 0)) == pytest.approx(4.05)
    haiku = shipped.models["claude-haiku-5-5"]
    assert haiku.usd(Usage(0, 100_001, 0, 0)) == pytest.approx(5 * haiku.usd(Usage(0, 100_001 - 1, 0, 0)), rel=1e-4)
    own = tmp_path / "prices.toml"
    own.write_text('date = "x"\n[models.mine]\ninput = 1\ncache_write = 1\ncache_read = 1\noutput = 1\n')
    assert read_prices(own).of("mine") is not None and read_prices(own).of("claude-opus-5") is not None
    own.write_text("[models.mine]\ninputs = 1\n")
    with pytest.raises(UserMistake, match="unknown key 'inputs'"):
        read_prices(own)


@pytest.mark.parametrize(
    ("model", "caps", "reason"),
    [
        (Anthropic("nobody-knows"), Caps(), "no price is known for nobody-knows"),
        (Anthropic("nobody-knows"), Caps(usd=1.0, calls=5), "no price is known"),
        (Anthropic("claude-opus-5"), Caps(usd=0.01), "less than one call"),
        (Anthropic("claude-opus-5"), Caps(tokens=100), "less than one call"),
        (Scripted(lambda *_: ""), Caps(tokens=100), "does not count tokens"),
    ],
)
def test_a_cap_that_cannot_be_kept_stops_before_anything_begins(model, caps, reason):
    with pytest.raises(UserMistake, match=reason):
        ledger.check([model], caps, read_prices(), PROMPT.prefix)


def test_the_command_line_stops_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["--benchmark", "packing", "--out", str(out), "--model", "anthropic:nobody-knows"]
    assert evo_run.main(command) == 2 and "no price is known" in capsys.readouterr().err
    assert evo_run.main([*command, "--calls", "3", "--usd", "1"]) == 2
    assert evo_run.main([*command, "--prices", str(tmp_path / "none.toml")]) == 2
    assert not out.exists()


def test_an_unknown_price_is_no_matter_under_a_cap_of_calls_or_tokens():
    for caps in (Caps(calls=5), Caps(tokens=10**6)):
        ledger.check([Anthropic("nobody-knows")], caps, read_prices(), PROMPT.prefix)
    ledger.check([Scripted(lambda *_: "")], Caps(calls=1), read_prices(), PROMPT.prefix)


def answer(body: dict) -> str:
    """One answer in two is of no use; the others set a rate that the request's length decides."""
    count = len(body["messages"][0]["content"][-1]["text"])
    return (
        f"solve.py\n<<<<<<< SEARCH\nRATE = 0.1\n=======\nRATE = 0.{count % 90 + 10}\n>>>>>>> REPLACE\n"
        if count % 2
        else "I would rather not."
    )


def test_a_run_says_what_it_cost_and_keeps_its_key(provider, toy, run_of, tmp_path, capsys):
    provider.delay, provider.answer = 0.0, answer
    run = run_of(toy, usd=50.0, model="anthropic:fake", threads=2, evaluations=58)
    models = llm.open_models("anthropic:fake?max_tokens=500&retries=0")
    recorder = Recorder(tmp_path / "record.jsonl")
    worker = new_worker(
        run, toy, TableJudge(), models=models, ledger=Ledger(run.tickets, Caps(usd=50.0), PRICES), recorder=recorder
    )
    worker.work()
    worker.close()
    found = inspect.cost(worker.state.extend(worker.journals.new_entries()))
    assert found["calls"] == len(provider.usages) > 10
    assert found["usd"] == pytest.approx(sum(map(paid, provider.usages)), abs=1e-5)
    assert 0 < found["of_no_use"]["usd"] < found["usd"]
    for kind in ("by_model", "by_operator", "by_thread"):
        assert sum(part["usd"] for part in found[kind].values()) == pytest.approx(found["usd"], abs=1e-4)
    assert set(found["by_thread"]) == {"0", "1"} and {"improve", "mutate"} <= set(found["by_operator"])
    assert found["certified"] and found["usd_for_each_certified"] > 0
    settled = [json.loads(file.read_text())["usd"] for file in run.tickets.glob("*.paid")]
    assert sum(settled) == pytest.approx(found["usd"], abs=1e-6)
    written = [file for file in [*run.path.rglob("*"), tmp_path / "record.jsonl"] if file.is_file()]
    assert not [file for file in written if SECRET in file.read_text(errors="replace")]
    assert not [body for body in provider.seen if SECRET in json.dumps({**body, "headers": None})]
    assert inspect.main([str(run.path), "cost"]) == 0 and "answers of no use" in capsys.readouterr().out
    assert inspect.main([str(run.path), "cards"]) == 0 and "solve" not in capsys.readouterr().err


def test_over_nine_tenths_of_the_input_come_from_the_cache(provider, toy, run_of):
    provider.delay, provider.answer = 0.0, answer
    text = toy.base["solve.py"] + "".join(f"# a line of a longer program, number {i}\n" for i in range(250))
    longer = dataclasses.replace(toy, base={"solve.py": text})
    run = run_of(longer, evaluations=400, base_runs=2)
    models = Models(((Anthropic("fake", max_tokens=500, retries=0), 1.0),))
    worker = new_worker(run, longer, TableJudge(), models=models, ledger=Ledger(run.tickets, Caps(calls=50), PRICES))
    worker.work(limit=120)
    worker.close()
    assert len(provider.usages) == 50
    read = sum(usage["cache_read_input_tokens"] for usage in provider.usages)
    sent = sum(sum(usage.values()) - usage["output_tokens"] for usage in provider.usages)
    assert read / sent > 0.9
