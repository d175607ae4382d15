"""What the workflows ask of the cluster: the door to `kube`.

There may be none: outside Kubernetes only the StorageClass parameter, or its like, chooses the mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.kube.objects import Claim, ObjectRef, Pod


class Cluster(Protocol):
    """Knows the claims that volumes are made for, and the pods that they are published for.

    Every question may raise `Unavailable` (the API server is slow or away) and `NotPermitted`. An answer is
    about exactly the object that was asked for, never about another one that has its name by now.
    """

    async def start(self) -> None:
        """Make ready to ask.

        Raises:
            SettingsError: there are no credentials that can be used.
        """

    async def close(self) -> None:
        """Tell what is still to be told, for a second at most, and let go."""

    async def claim(self, ref: ObjectRef) -> Claim:
        """Read a claim; an empty UID in `ref` means: whichever has the name.

        Raises:
            Precondition: it is gone, or another one has its name now.
        """

    async def pod(self, ref: ObjectRef) -> Pod:
        """Read a pod.

        Raises:
            Precondition: it is gone, or another one has its name now.
        """

    async def runtime_handler(self, pod: Pod) -> str:
        """Give the handler of a pod's RuntimeClass, as the node's container runtime knows it.

        Raises:
            Precondition: there is no such RuntimeClass.
        """

    async def claim_of(self, persistent_volume: str) -> str:
        """Give the name of the claim that a PersistentVolume is bound to.

        Raises:
            Precondition: there is none.
        """

    async def without_persistent_volume(self, driver: str, volumes: Mapping[str, str]) -> frozenset[str]:
        """Say to which volumes of a driver no PersistentVolume leads.

        Args:
            driver: the CSI driver's name.
            volumes: ids, with the names that the volumes were made under: a provisioner gives its
                PersistentVolume the same.
        """

    def tell(self, about: ObjectRef, action: str, reason: str, note: str) -> None:
        """Tell the people who look at an object; never fails, never waits."""
