"""What is to become of a volume whose node may be gone; decided by facts alone, nothing is asked here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from katacsi.kube.volumes import PersistentVolume

#: Without a claim. Kubernetes says Failed of some volumes whose deletion did not work.
_UNCLAIMED: Final = ("Released", "Failed")


class Verdict(Enum):
    """What to do."""

    KEEP = "keep"
    """Nothing is wrong, as far as we know, or it is no volume of ours."""

    WAIT = "wait"
    """Its node is absent, and may come back."""

    TELL = "tell"
    """A person has to decide."""

    RELEASE = "release"
    """Delete the PersistentVolume: nobody else ever can."""


@dataclass(frozen=True, slots=True)
class Rules:
    """By what is decided.

    Attributes:
        driver: the driver's name.
        topology_key: by which its volumes say on which node they are.
        grace_s: how long a node has to be absent.
        release: whether the operator wants volumes to be released.
    """

    driver: str
    topology_key: str
    grace_s: float
    release: bool

    def node_of(self, volume: PersistentVolume) -> str:
        """Give the node that a volume of ours is on; empty where it is another's, or not on one node."""
        return volume.place(self.topology_key) if volume.driver == self.driver else ""

    def verdict(self, volume: PersistentVolume, absent_s: float | None) -> Verdict:
        """Decide about a volume.

        Args:
            volume: the volume.
            absent_s: for how many seconds its node has been seen absent; None: it is there, or nobody knows.
        """
        if absent_s is None or not self.node_of(volume):
            return Verdict.KEEP
        if absent_s < self.grace_s:
            return Verdict.WAIT
        if self.release and self._is_unwanted(volume):
            return Verdict.RELEASE
        return Verdict.TELL

    def _is_unwanted(self, volume: PersistentVolume) -> bool:
        """Whether its owner gave it up and wanted it deleted; only its node's provisioner could do that.

        A bound volume never is: when its claim is deleted it becomes Released by itself. What a person wrote,
        or wants to retain, is that person's to delete.
        """
        return (
            volume.phase in _UNCLAIMED
            and volume.reclaim == "Delete"
            and volume.provisioner == self.driver
            and volume.claim is not None
        )
