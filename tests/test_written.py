"""A search that a model drives."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future

import pytest
from conftest import TableJudge, new_worker

from evo import operators, prompts
from evo import run as evo_run
from evo.benchmark import UserMistake
from evo.events import Marked, Proposed, Reflected, Rejected
from evo.genome import PatchError
from evo.ledger import Caps, Ledger, read_prices
from evo.llm import Completion, ModelError, Models, Prompt, Scripted, Slot
from evo.operators import written
from evo.outcome import Outcome, Status
from evo.worker import AHEAD, Flight


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
    standings = set()

    def answer(prompt: Prompt, slot: Slot) -> str:
        standings.update(line for line in prompt.request.split("\n") if line.startswith("The base scores "))
        rate = 0.1 + 0.02 * (slot.number + 1)
        return (
            block("RATE = 0.1", f"RATE = {rate:.2f}", "a larger rate") if "The base." in prompt.request else "no idea"
        )

    state = search_with(toy, run_of, answer)
    written = [p for p in state.proposals.values() if p.operator in ("improve", "mutate")]
    assert written and state.champion() is not None
    assert standings == {state.standing()} and f"{state.base_mean:.4g}" in state.standing()
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


class Slow(TableJudge):
    """Has no time for a deep program, and says so."""

    def judge(self, program, *, stage, seed):
        found = super().judge(program, stage=stage, seed=seed)
        return found if found.score is not None else Outcome.failed(Status.TIMEOUT, "killed: still running after 9 s")


def test_what_took_too_long_is_repaired_once(toy, run_of):
    asked = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        if "What went wrong" in prompt.request:
            asked.append(prompt.request)
            return block("DEPTH = 64", f"DEPTH = {65 + slot.number}")
        return block("DEPTH = 4", "DEPTH = 64")

    run = run_of(toy, evaluations=62)
    worker = new_worker(run, toy, Slow(), models=only(answer), ledger=ledger_of(run))
    worker.work()
    worker.close()
    programs = [re.search(r"## The current program\n\n(.*)", text)[1] for text in asked]  # type: ignore[index]
    assert programs and len(set(programs)) == len(programs)
    assert all("TIMEOUT: killed: still running after 9 s" in text for text in asked)


def test_a_bundle_of_a_model_makes_two_patches(toy, run_of):
    worker, name = judged(toy, run_of, 8)
    text = (
        block("WIDTH = 8", "WIDTH = 9", "wider")
        + block("WIDTH = 9\nx", "x")
        + block("DEPTH = 4", "DEPTH = 5", "deeper")
    )
    own, base = worker.state.genome(name), toy.base
    program = worker.state.program(own)
    both = Completion(block("WIDTH = 8", "WIDTH = 9", "wider") + block("DEPTH = 4", "DEPTH = 5", "deeper"), "m")
    found = written.read(both, own, program, base, toy, several=True)
    assert [patch.hypothesis for patch in found.patches[-2:]] == ["wider", "deeper"] and len(found.patches) == 3
    assert all(not patch.needs for patch in found.patches)
    one = written.read(both, own, program, base, toy)
    assert len(one.patches) == 2 and worker.state.program(one) == worker.state.program(found)
    with pytest.raises(PatchError, match="not in it"):
        written.read(Completion(text, "m"), own, program, base, toy, several=True)
    worker.close()


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


def test_a_model_that_is_down_is_asked_again_and_the_search_goes_on_without(toy, run_of):
    calls = []
    ticks = iter(range(0, 10**9, 200))

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(slot)
        raise ConnectionError("refused")

    run = run_of(toy, evaluations=70)
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run))
    worker.clock = lambda: float(next(ticks))
    worker.work()
    worker.close()
    assert len(calls) > 10
    told = [text for _, _, text in worker.state.notes if "10 times in a row" in text]
    assert len(told) == 1 and "refused" in told[0]
    assert worker.state.champion() is not None


def test_calls_that_fail_together_count_once_and_a_refused_model_is_asked_no_more(toy, run_of):
    worker, name = judged(toy, run_of, 8)
    model = worker.models.all[0]

    def fails(error: ModelError) -> None:
        writing = operators.write(worker.scene(0, 50), toy, "improve", name)
        answer: Future[Completion] = Future()
        answer.set_exception(error)
        worker.answered(Flight(writing, model, worker.ledger.take(model, writing.ask.prompt), answer, begun=0.0))

    for _ in range(4):
        fails(ModelError("OverloadedError: 529", billed=False))
    assert worker.failures == 1 and worker.not_before == 0.4
    fails(ModelError("NotFoundError: 404", billed=False, hopeless=True))
    worker.close()
    assert worker.models is None


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


def test_a_model_that_refuses_from_the_first_call_on_ends_the_run_with_the_reason(toy, run_of):
    def answer(prompt: Prompt, slot: Slot) -> str:
        raise ModelError("AuthenticationError: invalid x-api-key", billed=False, hopeless=True)

    run = run_of(toy)
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run))
    with pytest.raises(UserMistake, match="the model cannot be used: AuthenticationError"):
        worker.work()
    worker.close()


# --- what a model is asked besides improving


def conflicting(prompt: Prompt, slot: Slot) -> str:
    """Edits the same line again and again, so that crossovers conflict; looks back when it is asked to."""
    if "Do not change anything now" in prompt.request:
        return f"Hypothesis: thread {slot.thread} learnt at {slot.number}\nHypothesis: and more\n"
    if slot.number == 0:  # the parent is the base, so that this loses alone
        return block("DEPTH = 4", f"DEPTH = {5 + slot.number}") + block("WIDTH = 8", f"WIDTH = {1 + slot.number % 5}")
    # a model of flesh follows the numbered changes; this one waits until it is shown them as one
    current = re.search(r"^\+RATE = (.*)$", prompt.request.rpartition("as one change of the base:")[2], re.M)
    rate = current[1] if current else "0.1"
    return block(f"RATE = {rate}", f"RATE = {0.1 + 0.011 * (1 + slot.number) + 0.0013 * slot.thread:.4f}")


def test_conflicts_bundles_and_reflections_go_to_the_model(toy, run_of):
    asked: list[tuple[Slot, str]] = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        asked.append((slot, "\n".join(prompt.record) + prompt.request))
        return conflicting(prompt, slot)

    state = search_with(toy, run_of, answer, threads=2, evaluations=100)
    joined = [e for _, e in state.slots.values() if e.operator == "crossover" and e.calls]
    assert joined and all(len(event.parents) == 2 for event in joined)
    assert any("## The second change\n\nG" in text for _, text in asked)
    bundled = [e for _, e in state.slots.values() if e.operator == "bundle" and e.calls]
    assert bundled and any("## A change that lost alone\n\nG" in text for _, text in asked)
    reflected = {slot: e for slot, (_, e) in state.slots.items() if isinstance(e, Reflected)}
    assert {thread for thread, _ in reflected} == {0, 1} and all(number % 12 == 11 for _, number in reflected)
    assert reflected[0, 11].hypotheses == ("thread 0 learnt at 11", "and more") and reflected[0, 11].calls
    later = [text for slot, text in asked if slot.thread == 1 and slot.number > 14]
    assert later and all("thread 0 learnt at" in text and "thread 1 learnt at" in text for text in later)
    own, theirs = (re.search(rf"H(\d+): thread {n} learnt at 11", later[-1])[1] for n in (1, 0))  # type: ignore[index]
    assert f"- H{own}, H{int(own) + 1}, H{theirs}, see above" in later[0]  # of the other thread's only the first


def test_threads_ask_differently_and_see_what_the_others_learnt(toy, run_of):
    asked: dict[int, list[str]] = {0: [], 1: [], 2: []}

    def answer(prompt: Prompt, slot: Slot) -> str:
        asked[slot.thread].append("\n".join(prompt.record) + prompt.request)
        if "The base." not in prompt.request:
            return block("RATE = 0.1", f"RATE = 0.{20 + 3 * slot.number + slot.thread}", f"by thread {slot.thread}")
        return block("WIDTH = 8", f"WIDTH = {9 + 3 * slot.number + slot.thread}", f"by thread {slot.thread}")

    state = search_with(toy, run_of, answer, threads=3, evaluations=66)
    for thread, texts in asked.items():
        others = {other for other in asked if other != thread}
        assert texts and all(prompts.taste(thread) in text for text in texts)
        assert not any(prompts.taste(other) in text for text in texts for other in others - {0})
        assert any(f"by thread {other}" in text for text in texts for other in others)
    by_thread = {t: {n for n, p in state.proposals.items() if p.thread == t} for t in range(3)}
    assert all(by_thread.values()) and not by_thread[0] & by_thread[1]


def test_the_mix_with_a_model_and_the_controls(toy, run_of):
    mix = operators.mix_of(None, writes=True)
    assert mix == pytest.approx({"improve": 0.52, "mutate": 0.16, "crossover": 0.14, "sweep": 0.11, "bundle": 0.07})
    assert "improve" not in operators.mix_of("sweep-only", writes=True)
    assert operators.mix_of("no-library", writes=True) == mix and "improve" not in operators.mix_of("no-library")
    assert "crossover" not in operators.mix_of("no-crossover", writes=True)
    calls = []

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(prompt.request)
        return block("RATE = 0.1", f"RATE = {0.11 + 0.01 * slot.number:.2f}")

    state = search_with(toy, run_of, answer, control="best-of-n", evaluations=56)
    written = [p for p in state.proposals.values() if p.operator in ("improve", "mutate")]
    assert written and all(p.parents == (state.base.name,) for p in written)
    assert all("## The current program\n\nThe base.\n" in text for text in calls)


# --- what happens while a model writes


def judged(toy, run_of, steps: int):
    """A worker of a run in which the rate was raised once, and that genome's name."""
    run = run_of(toy)
    answer = lambda prompt, slot: block("RATE = 0.1", "RATE = 0.2")  # noqa: E731
    worker = new_worker(run, toy, TableJudge(), models=only(answer), ledger=ledger_of(run))
    worker.work(limit=steps)
    name = next(n for n, p in worker.state.proposals.items() if p.calls)
    assert worker.state.archive[name].scores
    return worker, name


@pytest.mark.parametrize(("edit", "fits"), [(("DEPTH = 4", "DEPTH = 5"), True), (("RATE = 0.2", "RATE = 0.3"), False)])
def test_a_proposal_whose_parent_was_set_aside_meanwhile_is_rebased_or_dropped(toy, run_of, edit, fits):
    worker, name = judged(toy, run_of, 8)
    writing = operators.write(worker.scene(0, 50), toy, "improve", name)
    worker.journal.append(Marked(name, "ban"))
    worker.state.extend(worker.journals.new_entries())
    answer: Future[Completion] = Future()
    answer.set_result(Completion(block(*edit), "m"))
    model = Scripted(lambda *_: "")
    ticket = worker.ledger.take(model, writing.ask.prompt)
    found = worker.answered(Flight(writing, model, ticket, answer))
    worker.close()
    if fits:
        assert isinstance(found, Proposed) and found.parents == (worker.state.base.name,)
        assert "RATE = 0.1" in toy.base["solve.py"] and len(found.patches) == 1
    else:
        assert isinstance(found, Rejected) and "set aside while this was written: a person said ban" in found.reason


def test_proposals_are_written_ahead_up_to_a_bound_while_a_judge_goes_on(toy, run_of):
    run = run_of(toy, model="scripted:x")
    free, calls = threading.Event(), []

    def answer(prompt: Prompt, slot: Slot) -> str:
        calls.append(slot)
        assert free.wait(60)
        return block("RATE = 0.1", f"RATE = 0.{20 + slot.number}")

    judge = new_worker(run, toy, TableJudge(), name="judge", role="judge")
    judge.work(limit=2)  # the base
    proposer = new_worker(run, toy, TableJudge(), name="p", role="propose", models=only(answer), ledger=ledger_of(run))
    done = threading.Event()
    writing = threading.Thread(target=lambda: proposer.work(done.is_set))
    writing.start()
    until = time.monotonic() + 60
    while len(calls) + judge.state.extend(judge.journals.new_entries()).waiting < AHEAD and time.monotonic() < until:
        time.sleep(0.01)
    for _ in range(5):  # nobody goes past the bound, and what is written already is judged although a call is open
        time.sleep(0.05)
        assert len(calls) + judge.state.extend(judge.journals.new_entries()).waiting == AHEAD
    assert len({(slot.thread, slot.number) for slot in calls}) == len(calls) >= 1
    free.set()
    judge.work(limit=6)
    done.set()
    writing.join(60)
    judge.close()
    proposer.close()
    assert judge.state.screened >= 4 and not writing.is_alive()


def test_a_run_after_another_is_told_what_that_one_found(toy, run_of, tmp_path):
    before, _ = judged(toy, run_of, 12)
    before.close()
    command = ["--benchmark", str(toy.root), "--model", "inbox:in", "--after", str(before.run.path)]
    directory, *_ = evo_run.prepared(evo_run.options([*command, "--out", str(tmp_path / "next")]))
    worker = new_worker(directory, toy, TableJudge(), models=only(lambda *_: ""))
    asked = operators.write(worker.scene(0, 0), toy, "improve", worker.state.base.name).ask.prompt
    worker.close()
    assert (
        asked.record[0].startswith("## What an earlier run found")
        and "optimizer, constants, screen] +" in asked.record[0]
    )
    for wrong, reason in ((["--after", str(tmp_path)], "found no run.toml"), (["--model", "none"], "name a model")):
        with pytest.raises(UserMistake, match=reason):
            evo_run.prepared(evo_run.options([*command, *wrong, "--out", str(tmp_path / "third")]))
    with pytest.raises(UserMistake, match="from the beginning on"):
        evo_run.prepared(evo_run.options([*command, "--out", str(directory.path)]))


def test_a_model_is_told_what_the_judge_measured_of_the_parent(toy, run_of):
    class Timed(TableJudge):
        def judge(self, program, *, stage, seed):
            found = super().judge(program, stage=stage, seed=seed)
            if found.score is None:
                return found
            return Outcome.passed(found.score, artifact=found.artifact, detail=f"{stage}: 12.5 us in add")

    prompts: list[str] = []

    def answer(prompt, slot):
        prompts.append(prompt.text)
        return block("RATE = 0.1", "RATE = 0.2")

    run = run_of(toy)
    new_worker(run, toy, Timed(), models=only(answer), ledger=ledger_of(run)).work(limit=30)
    told = [text.partition("## What the judge measured of it")[2][:60] for text in prompts]
    assert any("base: 12.5 us in add" in part for part in told)
    assert any("screen: 12.5 us in add" in part for part in told)
    assert not any("certify" in part for part in told)
