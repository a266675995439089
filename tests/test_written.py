"""A search that a model drives."""

from __future__ import annotations

from conftest import TableJudge, new_worker

from evo.ledger import Caps, Ledger, read_prices
from evo.llm import Models, Prompt, Scripted, Slot


def block(old: str, new: str, hypothesis: str = "an idea") -> str:
    return f"Hypothesis: {hypothesis}\nsolve.py\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def ledger_of(run, calls=None):
    return Ledger(run.tickets, Caps(calls), read_prices())


def only(answer) -> Models:
    return Models(((Scripted(answer), 1.0),))


def search_with(toy, run_of, answer, **settings):
    run = run_of(toy, **settings)
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run, settings.get("calls")))
    try:
        worker.work()
    finally:
        worker.close()
    return worker.state


def test_a_model_improves_a_program(toy, run_of):
    def answer(prompt: Prompt, slot: Slot) -> str:
        rate = 0.1 + 0.02 * (slot.number + 1)
        return (
            block("RATE = 0.1", f"RATE = {rate:.2f}", "a larger rate") if "+RATE" not in prompt.request else "no idea"
        )

    state = search_with(toy, run_of, answer)
    written = [p for p in state.proposals.values() if p.operator in ("improve", "mutate")]
    assert written and state.champion() is not None
    assert state.patches[written[0].new[0].name].hypothesis == "a larger rate"
    reasons = {s[1].reason for s in state.slots.values() if hasattr(s[1], "reason")}
    assert any("no usable edit in 3 answers: no edit found" in reason for reason in reasons)


def test_a_failed_edit_is_told_and_a_crash_is_repaired(toy, run_of):
    asked = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        asked.append(prompt.request)
        if "could not be applied" in prompt.request:
            return block("DEPTH = 4", "DEPTH = 64", "deeper")
        if "What went wrong" in prompt.request:
            return block("DEPTH = 64", "DEPTH = 16", "not so deep")
        return block("DEPTH = 5", "DEPTH = 64")

    state = search_with(toy, run_of, answer)
    assert any("expected 'DEPTH = 5', found 'DEPTH = 4'" in text for text in asked)
    assert any("CRASHED: too deep" in text for text in asked)
    repaired = [p for p in state.proposals.values() if p.operator == "repair"]
    assert repaired and state.archive.posterior(repaired[0].genome) > -10
    assert "DEPTH = 16" in state.program(state.genome(repaired[0].genome))["solve.py"]


def test_a_cap_on_calls_is_hard_and_the_search_goes_on(toy, run_of):
    calls = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(slot)
        return "nothing"

    state = search_with(toy, run_of, answer, calls=5)
    assert len(calls) == 5
    assert state.screened > 3


def test_an_answer_cannot_leave_the_program(toy, run_of):
    def answer(prompt: Prompt, slot: Slot) -> str:
        return "```python ../benchmark.toml\n[objective]\n```\n" if slot.number % 2 else "run.toml\n" + block("a", "b")

    state = search_with(toy, run_of, answer)
    assert not [p for p in state.proposals.values() if p.operator in ("improve", "mutate", "repair")]


def test_a_repair_that_fails_is_not_asked_for_ever(toy, run_of):
    tasks = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        if "What went wrong" in prompt.request:
            tasks.append("repair")
            return "I cannot."
        return block("DEPTH = 4", f"DEPTH = {64 + slot.number}")

    state = search_with(toy, run_of, answer)
    broken = [n for n, p in state.proposals.items() if p.operator in ("improve", "mutate") and state.objection(n)]
    assert broken and 0 < len(tasks) <= 2 * 3 * len(broken)  # two tries of three answers each
    assert state.screened > 5


def test_a_model_that_is_down_is_given_up_and_the_search_goes_on(toy, run_of):
    calls = []
    ticks = iter(range(0, 10**9, 100))

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(slot)
        raise ConnectionError("refused")

    run = run_of(toy, evaluations=70)
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run))
    worker.clock = lambda: float(next(ticks))
    worker.work()
    worker.close()
    assert len(calls) == 10 and any("10 times in a row" in text for _, _, text in worker.state.notes)
    assert worker.state.champion() is not None


def test_while_a_model_is_backed_off_from_the_search_goes_on_without(toy, run_of):
    calls = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(slot)
        raise ConnectionError("overloaded")

    run = run_of(toy)
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run))  # its clock stands still
    worker.work()
    worker.close()
    assert len(calls) == 1 and worker.state.screened > 5
