"""Tells people, by Events, of volumes whose node is gone: what is the matter, and what they can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.kube.volumes import FINALIZER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from katacsi.kube.objects import ObjectRef
    from katacsi.kube.volumes import PersistentVolume

    Tell = Callable[[ObjectRef, str, str, str], None]

REASON: Final = "NodeGone"
ACTION: Final = "WatchNodes"

#: Kubernetes forgets an Event after an hour; while a volume waits, there is one.
_AGAIN_S: Final = 3600.0
#: How many volumes are told of at once, and how many seconds there are to each further one: a volume has two
#: Events, and `katacsi.kube.events` writes 20 at once and then one in two seconds.
_BURST: Final = 10.0
_SECONDS_EACH: Final = 4.0


class Teller:
    """Tells of each volume now, and again every hour for as long as it waits.

    Args:
        tell: writes an Event on an object; see `katacsi.kube.events.EventRecorder`.
        release: whether unwanted volumes are released.
    """

    def __init__(self, tell: Tell, *, release: bool) -> None:
        self._tell = tell
        self._release = release
        self._told_at: dict[str, float] = {}
        self._allowance = _BURST
        self._refilled_at = 0.0

    def tell(self, waiting: Iterable[tuple[PersistentVolume, str]], now: float) -> None:
        """Tell of volumes and their gone nodes; those that are too many at once have their turn later."""
        self._allowance = min(_BURST, self._allowance + (now - self._refilled_at) / _SECONDS_EACH)
        self._refilled_at = now
        told_at: dict[str, float] = {}
        for volume, node in waiting:
            told = self._told_at.get(volume.ref.uid)
            if (told is None or now - told >= _AGAIN_S) and self._allowance >= 1:
                self._allowance -= 1
                self._tell_of(volume, node)
                told = now
            if told is not None:
                told_at[volume.ref.uid] = told
        self._told_at = told_at  # what does not wait any more is forgotten

    def _tell_of(self, volume: PersistentVolume, node: str) -> None:
        words = note(volume, node, release=self._release)
        self._tell(volume.ref, ACTION, REASON, words)
        if volume.claim is not None and volume.phase == "Bound":
            self._tell(volume.claim, ACTION, REASON, words)


def note(volume: PersistentVolume, node: str, *, release: bool) -> str:
    """Say what is the matter with a volume, and what its owner can do; at most 1024 bytes."""
    fact = f"{volume.ref} is on node {node}, which does not exist any more."
    back = "If the node comes back under this name, the volume works as before."
    if volume.phase == "Bound":
        claim = f"delete {volume.claim} and the pods that use it, and restore from a backup"
        then = "the volume is released then" if release else f"then {_by_hand(volume)}"
        return f"{fact} Its pods wait. {back} Else {claim}; {then}."
    if volume.reclaim == "Delete":
        return f"{fact} Nobody can delete its data there. {back} Else {_by_hand(volume)}."
    return f"{fact} {back} If its data is not needed any more, {_by_hand(volume)}."


def _by_hand(volume: PersistentVolume) -> str:
    name = volume.ref.name
    words = f"delete the object: kubectl delete pv {name} --wait=false"
    if volume.reclaim == "Delete":
        # Only where the volume is Released or will be: its protection against deletion in use has gone then.
        words += f' && kubectl patch pv {name} --type=merge -p \'{{"metadata":{{"finalizers":null}}}}\''
        words += f" (it waits for {FINALIZER})"
    return words
