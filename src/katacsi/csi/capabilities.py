"""What the driver says it can do, and with that, which of its methods answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Features, Role, Scope
from katacsi.csi import condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ControllerRpc = csi.ControllerServiceCapabilityRpcType
NodeRpc = csi.NodeServiceCapabilityRpcType
Service = csi.PluginCapabilityServiceType


#: Which capability a method comes with; None: it is there whenever its service is.
_CONTROLLER: Final[Mapping[str, ControllerRpc | None]] = {
    "CreateVolume": ControllerRpc.CREATE_DELETE_VOLUME,
    "DeleteVolume": ControllerRpc.CREATE_DELETE_VOLUME,
    "ControllerPublishVolume": ControllerRpc.PUBLISH_UNPUBLISH_VOLUME,
    "ControllerUnpublishVolume": ControllerRpc.PUBLISH_UNPUBLISH_VOLUME,
    "ValidateVolumeCapabilities": None,
    "ListVolumes": ControllerRpc.LIST_VOLUMES,
    "GetCapacity": ControllerRpc.GET_CAPACITY,
    "ControllerGetCapabilities": None,
    "CreateSnapshot": ControllerRpc.CREATE_DELETE_SNAPSHOT,
    "DeleteSnapshot": ControllerRpc.CREATE_DELETE_SNAPSHOT,
    "ListSnapshots": ControllerRpc.LIST_SNAPSHOTS,
    "GetSnapshot": ControllerRpc.GET_SNAPSHOT,
    "ControllerExpandVolume": ControllerRpc.EXPAND_VOLUME,
    "ControllerGetVolume": ControllerRpc.GET_VOLUME,
    "ControllerGetVolumeHealth": ControllerRpc.GET_VOLUME_HEALTH,
    "ControllerListVolumeHealth": ControllerRpc.LIST_VOLUME_HEALTH,
}
_NODE: Final[Mapping[str, NodeRpc | None]] = {
    "NodeStageVolume": NodeRpc.STAGE_UNSTAGE_VOLUME,
    "NodeUnstageVolume": NodeRpc.STAGE_UNSTAGE_VOLUME,
    "NodePublishVolume": None,
    "NodeUnpublishVolume": None,
    "NodeGetVolumeStats": NodeRpc.GET_VOLUME_STATS,
    "NodeGetVolumeHealth": NodeRpc.GET_VOLUME_HEALTH,
    "NodeExpandVolume": NodeRpc.EXPAND_VOLUME,
    "NodeGetCapabilities": None,
    "NodeGetInfo": None,
}
_IDENTITY: Final = ("GetPluginInfo", "GetPluginCapabilities", "Probe")


_NONE: Final = Features()


@dataclass(frozen=True, slots=True)
class Offer:
    """What one process advertises; it changes when a pool is opened that could not be opened before.

    Attributes:
        role: the services this process serves.
        scope: whether volumes stay on their node (LOCAL) or are fenced by the controller (NETWORK).
        newer: also advertise what CSI has had since 1.13; sidecars and test suites that are older may refuse
            a driver with capabilities they do not know.
        features: what the release's pools can do together.
    """

    role: Role = Role.ALL
    scope: Scope = Scope.LOCAL
    newer: bool = False
    features: Features = _NONE

    def controller(self) -> list[ControllerRpc]:
        """List what the controller service can do."""
        return list(self._controller()) if self.role is not Role.NODE else []

    def _controller(self) -> Iterator[ControllerRpc]:
        yield ControllerRpc.CREATE_DELETE_VOLUME
        yield ControllerRpc.LIST_VOLUMES
        yield ControllerRpc.GET_CAPACITY
        yield ControllerRpc.GET_VOLUME
        yield ControllerRpc.SINGLE_NODE_MULTI_WRITER
        yield condition.CONTROLLER_CAPABILITY
        if self.newer:
            yield ControllerRpc.GET_VOLUME_HEALTH
            yield ControllerRpc.LIST_VOLUME_HEALTH
        if self.features.snapshots:
            yield ControllerRpc.CREATE_DELETE_SNAPSHOT
            yield ControllerRpc.LIST_SNAPSHOTS
            yield ControllerRpc.GET_SNAPSHOT
        if self.features.clones:
            yield ControllerRpc.CLONE_VOLUME
        if self.scope is Scope.NETWORK:
            yield ControllerRpc.PUBLISH_UNPUBLISH_VOLUME
            # A local volume grows in NodeExpandVolume, with no channel from a controller to the node.
            if self.features.expand:
                yield ControllerRpc.EXPAND_VOLUME

    def node(self) -> list[NodeRpc]:
        """List what the node service can do."""
        return list(self._node()) if self.role is not Role.CONTROLLER else []

    def _node(self) -> Iterator[NodeRpc]:
        yield NodeRpc.STAGE_UNSTAGE_VOLUME
        yield NodeRpc.GET_VOLUME_STATS
        yield NodeRpc.VOLUME_MOUNT_GROUP
        # On controller and node together, so that Kubernetes sends it for ReadWriteOnce.
        yield NodeRpc.SINGLE_NODE_MULTI_WRITER
        yield condition.NODE_CAPABILITY
        if self.newer:
            yield NodeRpc.GET_VOLUME_HEALTH
        if self.features.expand:
            yield NodeRpc.EXPAND_VOLUME

    def plugin(self) -> list[Service]:
        """List what the plugin as a whole is."""
        services = [Service.CONTROLLER_SERVICE] if self.role is not Role.NODE else []
        if self.scope is Scope.LOCAL:
            services.append(Service.VOLUME_ACCESSIBILITY_CONSTRAINTS)
        return services

    def methods(self) -> frozenset[str]:
        """Give the paths of all methods that this offer promises, and of no other."""
        return _methods(self)


# Offers are few, and the kubelet asks for them before nearly every other call.
@cache
def _methods(offer: Offer) -> frozenset[str]:
    paths = {f"/csi.v1.Identity/{name}" for name in _IDENTITY}
    if offer.role is not Role.NODE:
        can = {None, *offer.controller()}
        paths |= {f"/csi.v1.Controller/{name}" for name, needs in _CONTROLLER.items() if needs in can}
    if offer.role is not Role.CONTROLLER:
        does = {None, *offer.node()}
        paths |= {f"/csi.v1.Node/{name}" for name, needs in _NODE.items() if needs in does}
    return frozenset(paths)


@cache
def plugin_capabilities(offer: Offer) -> csi.GetPluginCapabilitiesResponse:
    """Give the answer of GetPluginCapabilities."""
    capabilities = [
        csi.PluginCapability(service=csi.PluginCapabilityService(type=service)) for service in offer.plugin()
    ]
    if offer.features.expand:
        online = csi.PluginCapabilityVolumeExpansion(type=csi.PluginCapabilityVolumeExpansionType.ONLINE)
        capabilities.append(csi.PluginCapability(volume_expansion=online))
    return csi.GetPluginCapabilitiesResponse(capabilities=capabilities)


@cache
def controller_capabilities(offer: Offer) -> csi.ControllerGetCapabilitiesResponse:
    """Give the answer of ControllerGetCapabilities."""
    return csi.ControllerGetCapabilitiesResponse(
        capabilities=[
            csi.ControllerServiceCapability(rpc=csi.ControllerServiceCapabilityRpc(type=capability))
            for capability in offer.controller()
        ]
    )


@cache
def node_capabilities(offer: Offer) -> csi.NodeGetCapabilitiesResponse:
    """Give the answer of NodeGetCapabilities."""
    return csi.NodeGetCapabilitiesResponse(
        capabilities=[
            csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc(type=capability))
            for capability in offer.node()
        ]
    )
