"""What a person puts into a run is a fact like any other."""

from __future__ import annotations

import pytest
from conftest import TableJudge, library_of, new_worker

from evo import inspect
from evo.events import Task
from evo.genome import diff_trees


def changed(toy, tmp_path, old, new, name="mine.patch"):
    tree = {"solve.py": toy.base["solve.py"].replace(old, new)}
    file = tmp_path / name
    file.write_text(diff_trees(toy.base, tree))
    return file


def test_a_seed_is_screened_next_and_may_become_the_champion(toy, run_of, tmp_path, capsys):
    run = run_of(toy)
    new_worker(run, toy, TableJudge(), library=library_of(toy)[3:]).work(limit=6)
    good = changed(toy, tmp_path, "RATE = 0.1", "RATE = 0.4")
    assert inspect.main([str(run.path), "seed", str(good)]) == 0
    *_, state = inspect.opened(run.path)
    (name,) = [name for name, proposal in state.proposals.items() if proposal.operator == "seed"]
    assert capsys.readouterr().out.startswith(f"written: seed {name}, optimizer constants")
    assert Task(name, "screen") not in state.outcomes
    crew = new_worker(run, toy, TableJudge(), library=library_of(toy)[3:], name="x")
    crew.work(limit=1)
    assert Task(name, "screen") in inspect.opened(run.path)[3].outcomes
    crew.work()
    state = inspect.opened(run.path)[3]
    champion = state.champion()
    assert champion is not None and "mine" in inspect.ideas(state, champion.genome)
    assert any(name in proposal.parents for proposal in state.proposals.values())


def test_seeds_that_cannot_be_are_refused_in_a_sentence(toy, run_of, tmp_path, capsys):
    run = run_of(toy)
    good = changed(toy, tmp_path, "RATE = 0.1", "RATE = 0.4")
    other = tmp_path / "other.patch"
    other.write_text("--- a/new.py\n+++ b/new.py\n@@ -0,0 +1 @@\n+x = 1\n".replace("a/new.py", "/dev/null"))
    for files, said in (
        ([], "expected patch files"),
        ([tmp_path / "none.patch"], "expected a patch file, found"),
        ([other], "may not be changed"),
        ([changed(toy, tmp_path, "RATE = 0.1", "RATE = (", "broken.patch")], "does not parse"),
    ):
        assert inspect.main([str(run.path), "seed", *map(str, files)]) == 2
        assert said in capsys.readouterr().err
    assert inspect.main([str(run.path), "seed", str(good)]) == 0
    assert inspect.main([str(run.path), "seed", str(good)]) == 2
    assert "was proposed in this run already" in capsys.readouterr().err
    recorded = run_of(toy, "recorded", record=str(tmp_path / "r.jsonl"))
    assert inspect.main([str(recorded.path), "seed", str(good)]) == 2
    assert "is recorded" in capsys.readouterr().err


@pytest.mark.parametrize("view", ["summary", "cells", "lineage", "quarantine", "events", "cards", "cost"])
def test_every_view_of_a_run_without_facts_says_something(toy, run_of, view, capsys):
    code = inspect.main([str(run_of(toy).path), view])
    told = capsys.readouterr()
    assert (code == 0 and (told.out.strip() or view == "events")) or (code == 2 and "no evaluated genome" in told.err)
