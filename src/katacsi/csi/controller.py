"""The Controller service. Each RPC: parse, ask a workflow, render; changes run to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi._gen.csi import v1 as csi
from katacsi.csi import capabilities, condition, parse, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.csi.capabilities import Offer
    from katacsi.csi.network import NetworkWorkflows
    from katacsi.rpc.changes import Changes
    from katacsi.volumes.workflows import Workflows


class Controller(csi.ControllerBase):
    """Volumes and snapshots. What is not offered never gets here: see `katacsi.csi.services`."""

    def __init__(self, workflows: Workflows, changes: Changes, offer: Callable[[], Offer]) -> None:
        self._volumes = workflows.provisioning
        self._snapshots = workflows.snapshots
        self._changes = changes
        self._offer = offer

    async def controller_get_capabilities(
        self, message: csi.ControllerGetCapabilitiesRequest
    ) -> csi.ControllerGetCapabilitiesResponse:
        """Say what this service can do."""
        del message
        return capabilities.controller_capabilities(self._offer())

    async def create_volume(self, message: csi.CreateVolumeRequest) -> csi.CreateVolumeResponse:
        """Make a volume."""
        request = parse.create_volume(message)
        view = await self._changes.run(self._volumes.create(request))
        return csi.CreateVolumeResponse(volume=render.volume(view))

    async def delete_volume(self, message: csi.DeleteVolumeRequest) -> csi.DeleteVolumeResponse:
        """Free a volume."""
        await self._changes.run(self._volumes.delete(parse.volume_id(message)))
        return csi.DeleteVolumeResponse()

    async def validate_volume_capabilities(
        self, message: csi.ValidateVolumeCapabilitiesRequest
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        """Say whether a volume can be used so."""
        validation = await self._volumes.validate(parse.validate(message))
        if validation.confirmed:
            return render.confirmed(message)
        return csi.ValidateVolumeCapabilitiesResponse(message=validation.message)

    async def controller_get_volume(
        self, message: csi.ControllerGetVolumeRequest
    ) -> csi.ControllerGetVolumeResponse:
        """Look a volume up."""
        view = await self._volumes.get(parse.volume_id(message))
        return csi.ControllerGetVolumeResponse(
            volume=render.volume(view), status=condition.got(view.condition)
        )

    async def list_volumes(self, message: csi.ListVolumesRequest) -> csi.ListVolumesResponse:
        """Give a page of all volumes."""
        page = await self._volumes.list(*parse.page(message))
        return csi.ListVolumesResponse(
            entries=[render.volume_entry(view) for view in page.volumes], next_token=page.next_token
        )

    async def get_capacity(self, message: csi.GetCapacityRequest) -> csi.GetCapacityResponse:
        """Say what can still be made."""
        return render.capacity(await self._volumes.capacity(parse.get_capacity(message)))

    async def controller_get_volume_health(
        self, message: csi.ControllerGetVolumeHealthRequest
    ) -> csi.ControllerGetVolumeHealthResponse:
        """Say how well a volume is."""
        volume_id = parse.volume_id(message)
        view = await self._volumes.get(volume_id)
        return csi.ControllerGetVolumeHealthResponse(volume_health=render.health(volume_id, view.condition))

    async def controller_list_volume_health(
        self, message: csi.ControllerListVolumeHealthRequest
    ) -> csi.ControllerListVolumeHealthResponse:
        """Give the volumes of a page that are not well."""
        page = await self._volumes.list(*parse.page(message))
        return csi.ControllerListVolumeHealthResponse(
            entries=[
                render.health(str(view.volume.id), view.condition)
                for view in page.volumes
                if view.condition.abnormal
            ],
            next_token=page.next_token,
        )

    async def create_snapshot(self, message: csi.CreateSnapshotRequest) -> csi.CreateSnapshotResponse:
        """Make a snapshot."""
        snapshot = await self._changes.run(self._snapshots.create(*parse.create_snapshot(message)))
        return csi.CreateSnapshotResponse(snapshot=render.snapshot(snapshot))

    async def delete_snapshot(self, message: csi.DeleteSnapshotRequest) -> csi.DeleteSnapshotResponse:
        """Free a snapshot."""
        await self._changes.run(self._snapshots.delete(parse.snapshot_id(message)))
        return csi.DeleteSnapshotResponse()

    async def get_snapshot(self, message: csi.GetSnapshotRequest) -> csi.GetSnapshotResponse:
        """Look a snapshot up."""
        snapshot = await self._snapshots.get(parse.snapshot_id(message))
        return csi.GetSnapshotResponse(snapshot=render.snapshot(snapshot))

    async def list_snapshots(self, message: csi.ListSnapshotsRequest) -> csi.ListSnapshotsResponse:
        """Give a page of the snapshots that match."""
        page = await self._snapshots.list(parse.list_snapshots(message))
        return csi.ListSnapshotsResponse(
            entries=[
                csi.ListSnapshotsResponseEntry(snapshot=render.snapshot(found)) for found in page.snapshots
            ],
            next_token=page.next_token,
        )


class NetworkController(Controller):
    """The Controller service of a release whose volumes any node can reach, once it is let."""

    def __init__(
        self,
        workflows: Workflows,
        network: NetworkWorkflows,
        changes: Changes,
        offer: Callable[[], Offer],
    ) -> None:
        super().__init__(workflows, changes, offer)
        self._network = network

    async def controller_publish_volume(
        self, message: csi.ControllerPublishVolumeRequest
    ) -> csi.ControllerPublishVolumeResponse:
        """Let a node reach a volume."""
        context = await self._changes.run(self._network.publish(parse.controller_publish(message)))
        return csi.ControllerPublishVolumeResponse(publish_context=dict(context))

    async def controller_unpublish_volume(
        self, message: csi.ControllerUnpublishVolumeRequest
    ) -> csi.ControllerUnpublishVolumeResponse:
        """Fence a node off a volume."""
        await self._changes.run(self._network.unpublish(*parse.controller_unpublish(message)))
        return csi.ControllerUnpublishVolumeResponse()

    async def controller_expand_volume(
        self, message: csi.ControllerExpandVolumeRequest
    ) -> csi.ControllerExpandVolumeResponse:
        """Grow a volume on its storage; its node and its filesystem follow in NodeExpandVolume."""
        size = await self._changes.run(self._network.expand(parse.controller_expand(message)))
        return csi.ControllerExpandVolumeResponse(capacity_bytes=size, node_expansion_required=True)
