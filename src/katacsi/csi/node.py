"""The Node service. Each RPC: parse, ask a workflow, render; changes run to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi._gen.csi import v1 as csi
from katacsi.csi import capabilities, condition, parse, render
from katacsi.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.csi.capabilities import Offer
    from katacsi.model import Condition
    from katacsi.rpc.changes import Changes
    from katacsi.volumes.requests import GetStats
    from katacsi.volumes.workflows import Workflows


class Node(csi.NodeBase):
    """Volumes on this node. What is not offered never gets here: see `katacsi.csi.services`."""

    def __init__(self, workflows: Workflows, changes: Changes, offer: Callable[[], Offer]) -> None:
        self._workflows = workflows
        self._changes = changes
        self._offer = offer

    async def node_get_capabilities(
        self, message: csi.NodeGetCapabilitiesRequest
    ) -> csi.NodeGetCapabilitiesResponse:
        """Say what this service can do."""
        del message
        return capabilities.node_capabilities(self._offer())

    async def node_get_info(self, message: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:
        """Name this node."""
        del message
        return render.node(await self._workflows.node.info())

    async def node_stage_volume(self, message: csi.NodeStageVolumeRequest) -> csi.NodeStageVolumeResponse:
        """Attach and format a volume."""
        await self._changes.run(self._workflows.staging.stage(parse.stage(message)))
        return csi.NodeStageVolumeResponse()

    async def node_unstage_volume(
        self, message: csi.NodeUnstageVolumeRequest
    ) -> csi.NodeUnstageVolumeResponse:
        """Detach a volume."""
        await self._changes.run(self._workflows.staging.unstage(*parse.unstage(message)))
        return csi.NodeUnstageVolumeResponse()

    async def node_publish_volume(
        self, message: csi.NodePublishVolumeRequest
    ) -> csi.NodePublishVolumeResponse:
        """Mount a volume for a pod, or hand it to Kata."""
        await self._changes.run(self._workflows.publishing.publish(parse.publish(message)))
        return csi.NodePublishVolumeResponse()

    async def node_unpublish_volume(
        self, message: csi.NodeUnpublishVolumeRequest
    ) -> csi.NodeUnpublishVolumeResponse:
        """Take a volume from a pod."""
        await self._changes.run(self._workflows.unpublishing.unpublish(*parse.unpublish(message)))
        return csi.NodeUnpublishVolumeResponse()

    async def node_expand_volume(self, message: csi.NodeExpandVolumeRequest) -> csi.NodeExpandVolumeResponse:
        """Grow a volume and its filesystem."""
        size = await self._changes.run(self._workflows.expansion.expand(parse.expand(message)))
        return csi.NodeExpandVolumeResponse(capacity_bytes=size)

    async def node_get_volume_stats(
        self, message: csi.NodeGetVolumeStatsRequest
    ) -> csi.NodeGetVolumeStatsResponse:
        """Say how full a volume is, and how well."""
        stats = await self._workflows.usage.stats(parse.get_stats(message))
        response = condition.stats(stats.condition)
        response.usage = render.usage(stats.usage)
        return response

    async def node_get_volume_health(
        self, message: csi.NodeGetVolumeHealthRequest
    ) -> csi.NodeGetVolumeHealthResponse:
        """Say how well a volume is, also when it never got as far as a path on this node."""
        request = parse.get_health(message)
        found = await self._condition(request)
        return csi.NodeGetVolumeHealthResponse(volume_health=render.health(request.volume_id, found))

    async def _condition(self, request: GetStats) -> Condition:
        if request.volume_path:
            try:
                return (await self._workflows.usage.stats(request)).condition
            except NotFound:
                pass  # perhaps the path only; the next question tells
        return (await self._workflows.provisioning.get(request.volume_id)).condition
