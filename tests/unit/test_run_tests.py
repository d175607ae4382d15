"""tools/run_tests.py: tiers run in their order, some beside others, and nothing green that did not run."""

from __future__ import annotations

import pytest

import run_tests
from run_tests import Ladder
from tiers import BY_NAME, Outcome


@pytest.fixture
def runs(monkeypatch):
    """What happens to each tier's pytest, instead of one."""
    happened = []

    class Running:
        def __init__(self, tier, options, output=None):
            self.name = tier.name
            happened.append(f"start {tier.name} {' '.join(options)}".strip())
            if output:
                print(f"the words of {tier.name}", file=output, flush=True)

        def wait(self):
            happened.append(f"wait for {self.name}")
            if self.name == "crash":
                raise KeyboardInterrupt
            return Outcome(skipped=1) if self.name == "sanity" else Outcome(passed=1)

        def stop(self):
            happened.append(f"stop {self.name}")

    monkeypatch.setattr(run_tests, "Running", Running)
    monkeypatch.setattr(Ladder, "_build", lambda *_: None)
    return happened


def climb(*names, options=(), required=()):
    with Ladder([BY_NAME[name] for name in names], list(options), set(required)) as ladder:
        ladder.climb()
    return ladder.outcomes


def test_a_tier_that_leaves_a_processor_idle_runs_beside_another(runs, capsys):
    """guest is started with host, waited for in its turn, and its words come there."""
    outcomes = climb("host", "sanity", "guest")
    assert list(outcomes) == ["host", "sanity", "guest"]
    assert [each for each in runs if not each.startswith("stop")] == [
        "start guest",
        "start host",
        "wait for host",
        "start sanity",
        "wait for sanity",
        "wait for guest",
    ]
    said = capsys.readouterr().out
    assert said.index("=== sanity") < said.index("=== guest") < said.index("the words of guest")


@pytest.mark.parametrize(
    ("names", "options"), [(("guest",), ()), (("sanity", "guest"), ()), (("host", "guest"), ("-x",))]
)
def test_alone_or_with_wishes_it_waits_for_its_turn(runs, names, options):
    """Whoever looks at a few tests sees them run."""
    climb(*names, options=options)
    assert runs.index(f"start guest {' '.join(options)}".strip()) > len(runs) - 4


def test_what_runs_beside_is_ended_with_the_run(runs):
    """Ctrl-C in another tier leaves no machine behind."""
    with pytest.raises(KeyboardInterrupt):
        climb("host", "crash", "guest")
    assert runs[-2:] == ["stop crash", "stop guest"]


def test_a_required_tier_without_a_test_that_ran_is_a_failure(runs):
    """A machine that quietly lacks something must not look green."""
    outcomes = climb("host", "sanity", required=("host", "sanity"))
    assert outcomes["host"].failed == 0
    assert outcomes["sanity"].failed == 1
    assert outcomes["sanity"].note == "required, but no test ran: all were skipped"
