"""How a volume is published where nothing was published before: the mode, and what else the pod says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from katacsi import tracing
from katacsi.model import AccessType
from katacsi.volumes import parameters
from katacsi.volumes.publish import pods
from katacsi.volumes.publish.mode import Asked, Mode, PodRuntime, decide

if TYPE_CHECKING:
    from katacsi.kube.objects import Pod
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.requests import Publish


class Decision:
    """Decides, and asks the cluster for what that depends on and no more."""

    def __init__(self, context: Context) -> None:
        self._pods = pods.PodReader(context) if context.cluster is not None else None

    @tracing.phase("choose mode")
    async def made(self, wanted: Published, request: Publish, asked: Asked) -> Published:
        """Give what is wanted with its mode, and with the pod's fsGroupChangePolicy where it has one.

        Raises:
            Precondition: the pod rules it out, is gone, or is not named by the caller.
            Unavailable: the pod matters and cannot be read now. Nothing is guessed.
        """
        access, volume = request.capability.access_type, f"volume {request.volume_id}"
        if self._pods is None or access is AccessType.BLOCK:
            return replace(wanted, mode=decide(access, asked, PodRuntime.NO_CLUSTER, volume=volume))
        if asked is Asked.HOST:
            wanted = replace(wanted, mode=Mode.HOST)
            named = pods.reference(request.volume_context) is not None
            if not named or not wanted.mount_group or wanted.read_only:
                return wanted  # no group, no policy
            return _with_policy(wanted, await self._pods.pod(request.volume_context, volume))
        pod = await self._pods.pod(request.volume_context, volume)
        mode = decide(access, asked, await self._pods.runtime_of(pod), volume=volume)
        if mode is Mode.DIRECT:
            await self._pods.require_whole(pod, request.target_path)
        return _with_policy(replace(wanted, mode=mode), pod)


def _with_policy(wanted: Published, pod: Pod) -> Published:
    """Give the volume to the pod's group when the pod says, else when the StorageClass does."""
    said = next(
        (each for each in parameters.FS_GROUP_CHANGE_POLICIES if each == pod.fs_group_change_policy), None
    )
    return replace(wanted, fs_group_change_policy=said) if said else wanted
