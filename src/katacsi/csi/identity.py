"""The Identity service: who the driver is, what it can do, whether it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi._gen.csi import v1 as csi
from katacsi.csi import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.csi.capabilities import Offer


class Identity(csi.IdentityBase):
    """Answers from memory alone: the kubelet kills a driver whose Probe is slow."""

    def __init__(
        self, name: str, version: str, offer: Callable[[], Offer], ready: Callable[[], bool]
    ) -> None:
        self._info = csi.GetPluginInfoResponse(name=name, vendor_version=version)
        self._offer = offer
        self._ready = ready

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
        """Say whether the pools are open."""
        del message
        return csi.ProbeResponse(ready=self._ready())
