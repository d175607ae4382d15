"""What people are told of a volume whose node is gone, and how often."""

from __future__ import annotations

import pytest

from katacsi.kube.volumes import PersistentVolume
from katacsi.nodewatch.telling import Teller, note
from support import stranded


def volume(name: str = "pv-1", **facts) -> PersistentVolume:
    return PersistentVolume.of(stranded.volume(name, **facts))


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str]] = []

    def __call__(self, about, action, reason, note) -> None:
        self.events.append((str(about), action, reason, note))

    def names(self) -> list[str]:
        return [event[0] for event in self.events]


def test_a_bound_volume_is_told_on_its_claim_too():
    """Whoever owns the claim looks there; a claim that is gone has nobody who looks."""
    told = Told()
    waiting = [(volume("a", phase="Bound"), "node-1"), (volume("b"), "node-1")]
    Teller(told, release=False).tell(waiting, now=1e6)
    assert told.names() == ["PV a", "PVC default/claim-of-a", "PV b"]
    assert {event[1:3] for event in told.events} == {("WatchNodes", "NodeGone")}


def test_a_volume_is_told_again_when_kubernetes_has_forgotten_the_event():
    """While a volume waits there is an Event on it; not one at each look."""
    told, waiting = Told(), [(volume(), "node-1")]
    teller = Teller(told, release=False)
    for now in range(0, 7261, 60):
        teller.tell(waiting, float(now))
    assert len(told.events) == 3
    teller.tell([], 7300)
    teller.tell(waiting, 7360)
    assert len(told.events) == 4, "its node was back in between"


def test_many_volumes_are_told_of_one_after_another_and_all():
    """A node with hundreds of volumes overflows nothing: each has its Event within the pace of Events."""
    told = Told()
    waiting = [(volume(f"pv-{number}", phase="Bound"), "node-1") for number in range(100)]
    teller = Teller(told, release=False)
    teller.tell(waiting, 1e6)
    assert len(told.events) == 20
    for look in range(1, 10):
        teller.tell(waiting, 1e6 + 60 * look)
        assert len(told.events) <= 20 + 30 * look
    assert set(told.names()) >= {str(each.ref) for each, _ in waiting}
    assert len(told.events) == 200


@pytest.mark.parametrize(
    ("facts", "release", "words"),
    [
        ({"phase": "Bound"}, False, ["works as before", "PVC default/claim-of-pv-1", "patch pv pv-1"]),
        ({"phase": "Bound"}, True, ["works as before", "PVC default/claim-of-pv-1", "released then"]),
        ({}, False, ["Nobody can delete", "kubectl delete pv pv-1", '"finalizers":null']),
        ({"reclaim": "Retain"}, False, ["not needed any more", "kubectl delete pv pv-1"]),
    ],
)
def test_the_words_name_the_volume_the_node_and_the_remedy(facts, release, words):
    """A person needs no other page to act."""
    said = note(volume(**facts), "node-1", release=release)
    assert said.startswith("PV pv-1 is on node node-1, which does not exist any more.")
    assert [word for word in words if word not in said] == []
    assert ("kubectl patch" in said) == (not release and facts.get("reclaim") != "Retain")


def test_the_words_fit_into_an_event():
    """The commands are whole for names as they are made: `pvc-` and a UID, a claim of 100 characters."""
    raw = stranded.volume("pvc-6e0b5f0c-3f9e-4b9e-8f65-3d5b1c7a9e10", phase="Bound")
    raw["spec"]["claimRef"] |= {"namespace": "n" * 63, "name": "c" * 100}
    assert len(note(PersistentVolume.of(raw), "n" * 63, release=False).encode()) <= 1024
