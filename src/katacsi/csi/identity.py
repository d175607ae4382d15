"""The Identity service: who the driver is, what it can do, that it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi._gen.csi import v1 as csi
from katacsi.csi import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.csi.capabilities import Offer


class Identity(csi.IdentityBase):
    """Answers from memory alone: the kubelet kills a driver whose Probe is slow."""

    def __init__(self, name: str, version: str, offer: Callable[[], Offer]) -> None:
        self._info = csi.GetPluginInfoResponse(name=name, vendor_version=version)
        self._offer = offer

    async def get_plugin_info(self, message: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:
        """Name the driver."""
        del message
        return self._info

    async def get_plugin_capabilities(
        self, message: csi.GetPluginCapabilitiesRequest
    ) -> csi.GetPluginCapabilitiesResponse:
        """Say which services there are."""
        del message
        return capabilities.plugin_capabilities(self._offer())

    async def probe(self, message: csi.ProbeRequest) -> csi.ProbeResponse:
        """Say that the driver has been initialised: it listens only then.

        A pool that is away changes nothing. "Not ready" would have the kubelet restart the driver, which
        brings no disk back and keeps the other pools' pods waiting; calls for the pool say what is wrong.

        Source: CSI, ProbeResponse.ready: false is for a plugin that is still initialising, an error for one
        that a restart may mend.
        """
        del message
        return csi.ProbeResponse(ready=True)
