"""All five CSI services of a process, each answering what is offered and UNIMPLEMENTED for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Role, Scope
from katacsi.csi.capabilities import Offer
from katacsi.csi.controller import Controller, NetworkController
from katacsi.csi.identity import Identity
from katacsi.csi.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from grpclib._typing import IServable, IServerMethodFunc

    from katacsi.csi.network import NetworkWorkflows
    from katacsi.rpc.changes import Changes
    from katacsi.volumes.workflows import Workflows


class Offered:
    """A service whose methods answer only while they are in the offer."""

    def __init__(self, service: IServable, offer: Callable[[], Offer]) -> None:
        self._service = service
        self._offer = offer

    def __mapping__(self) -> Mapping[str, Handler]:
        """Give the methods by their paths, as grpclib asks for them."""
        return {
            path: handler._replace(func=self._gated(path, handler.func))
            for path, handler in self._service.__mapping__().items()
        }

    def _gated(self, path: str, method: IServerMethodFunc) -> IServerMethodFunc:
        name = path.rpartition("/")[2]

        async def gated(stream: Any) -> None:  # noqa: ANN401  # any method's stream
            if path not in self._offer().methods():
                raise GRPCError(
                    Status.UNIMPLEMENTED, f"{name} is not offered by this driver; ask for its capabilities"
                )
            await method(stream)

        return gated


def services(
    workflows: Workflows,
    changes: Changes,
    *,
    driver_name: str,
    version: str,
    role: Role = Role.ALL,
    network: NetworkWorkflows | None = None,
    newer: bool = False,
) -> list[IServable]:
    """Make the services of a process.

    Args:
        workflows: what the services ask.
        changes: where what the workflows change runs to its end.
        driver_name: the CSI driver name.
        version: the driver's version.
        role: which services this process serves besides Identity.
        network: what pools of scope NETWORK can do more; its presence makes the offer one of that scope.
        newer: also offer what CSI has had since 1.13.
    """
    scope = Scope.NETWORK if network else Scope.LOCAL

    def offer() -> Offer:
        return Offer(role, scope, newer, workflows.features)

    controller = (
        NetworkController(workflows, network, changes, offer)
        if network
        else Controller(workflows, changes, offer)
    )
    every: tuple[IServable, ...] = (
        Identity(driver_name, version, offer),
        controller,
        Node(workflows, changes, offer),
        # Not offered: no backend cuts several volumes at once, and none tells which blocks changed. Each
        # method of a generated class answers UNIMPLEMENTED.
        csi.GroupControllerBase(),
        csi.SnapshotMetadataBase(),
    )
    return [Offered(service, offer) for service in every]
