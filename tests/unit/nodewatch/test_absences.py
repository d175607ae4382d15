"""The grace period: only what was seen counts."""

from __future__ import annotations

import pytest

from katacsi.nodewatch.absences import Absences


@pytest.fixture
def absences() -> Absences:
    return Absences(longest_s=120)


def test_time_counts_from_the_first_look_that_missed_the_node(absences):
    """A node that was never seen absent has no time; then it adds up from look to look."""
    assert absences.of("n") is None
    absences.saw([], 1000)
    absences.saw(["n"], 1060)
    assert absences.of("n") == 0
    absences.saw(["n"], 1120)
    absences.saw(["n"], 1150)
    assert absences.of("n") == 90


def test_a_node_that_came_back_begins_anew(absences):
    """One look that found the node ends its absence, and so does a proof between two looks."""
    for now in (0, 60, 120):
        absences.saw(["n"], now)
    absences.saw([], 180)
    assert absences.of("n") is None
    absences.saw(["n"], 240)
    assert absences.of("n") == 0
    absences.saw(["n"], 300)
    absences.is_back("n")
    assert absences.of("n") is None
    absences.saw(["n"], 360)
    assert absences.of("n") == 0


def test_time_in_which_nobody_could_look_does_not_count(absences):
    """An API server that is down for an hour brings no node an hour nearer to its end."""
    absences.saw(["n"], 0)
    absences.saw(["n"], 60)
    absences.could_not_look()
    absences.saw(["n"], 90)
    assert absences.of("n") == 60
    absences.saw(["n"], 150)
    assert absences.of("n") == 120


def test_a_watcher_that_was_stopped_does_not_count_the_time(absences):
    """A process that was frozen for a day has not looked for a day."""
    absences.saw(["n"], 0)
    absences.saw(["n"], 86400)
    assert absences.of("n") == 120
