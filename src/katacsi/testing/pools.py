"""The pool that a conformance test is given: it can be restarted, and its devices read and written."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import (
    UNREMEMBERED,
    Attachment,
    BackendCall,
    CreateRequest,
    Fencing,
    Growing,
    Identifying,
    Node,
    PoolContext,
    Scope,
    SizeRange,
    Snapshotting,
    StopSignal,
    begin_call,
    features_of,
)
from katacsi.errors import KatacsiError, StillWorking
from katacsi.testing import blockio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from katacsi.backends.api import (
        Backend,
        Condition,
        ContentSource,
        Device,
        Snapshot,
        Volume,
        VolumeId,
    )
    from katacsi.testing.kit import ConformanceKit

#: How often a pool is cleared before what stays there counts as stuck.
_CLEARINGS = 20
#: How often a create that says "come again" is repeated, and so many seconds apart.
_COMINGS, _PAUSE_S = 600, 0.1


class PoolUnderTest:
    """A pool, with shorthands for what tests do to it."""

    def __init__(
        self, make_backend: Callable[[PoolContext], Backend], kit: ConformanceKit, node_id: str = ""
    ) -> None:
        self._make_backend = make_backend
        self._kit = kit
        self._attachments: dict[VolumeId, Attachment] = {}
        self.node_id = node_id or kit.node_id
        #: Tells the backend that its process is to end.
        self.stopping = StopSignal()
        self._backend = self._make(read_only=False)

    def _make(self, *, read_only: bool) -> Backend:
        context = PoolContext(
            pool="pool",
            driver_name="test.katacsi.io",
            node_id=self.node_id,
            read_only=read_only,
            state_directory=self._kit.node_folder(self.node_id),
            stopping=self.stopping,
        )
        return self._make_backend(context)

    @property
    def backend(self) -> Backend:
        """The backend, for calls that are given the kit's secrets."""
        begin_call(BackendCall(secrets=self._kit.secrets))
        return self._backend

    def again(self) -> PoolUnderTest:
        """Give a pool on the same storage and node, not started, as another process would have it."""
        return PoolUnderTest(self._make_backend, self._kit, self.node_id)

    def unstarted(self) -> Backend:
        """Give a second backend on the same storage that was never started."""
        return self._make(read_only=False)

    async def start(self) -> None:
        """Start the backend."""
        await self.backend.start()

    async def restart(self, meanwhile: Callable[[], object] | None = None) -> None:
        """Replace the backend by a new one on the same storage, as a new process would."""
        await self.backend.close()
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)
        self.stopping = StopSignal()
        self._backend = self._make(read_only=False)
        await self.backend.start()

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[Backend]:
        """Give a second backend on the same storage that may only look."""
        view = self._make(read_only=True)
        await view.start()
        try:
            yield view
        finally:
            await view.close()

    @contextlib.asynccontextmanager
    async def on(self, node_id: str) -> AsyncIterator[PoolUnderTest]:
        """Give the pool as another node has it, started; the test is skipped where volumes stay on a node."""
        self.need_network()
        other = PoolUnderTest(self._make_backend, self._kit, node_id)
        await other.start()
        try:
            yield other
        finally:
            await other.backend.close()

    def need_network(self) -> Fencing:
        """Give the pool, if any node can reach its volumes; else the test is skipped."""
        if self.backend.scope is not Scope.NETWORK:
            pytest.skip("the pool's volumes stay on their node: its scope is not NETWORK")
        assert isinstance(self.backend, Fencing), "a pool with scope NETWORK has no publish and unpublish"
        return self.backend

    def need(self, *features: str) -> None:
        """Skip the test unless the pool has these features."""
        for feature in features:
            if not getattr(features_of(self.backend), feature):
                pytest.skip(f"the pool has no such feature: {feature}")

    @property
    def growing(self) -> Growing:
        """The pool, if its volumes can grow; else the test is skipped."""
        self.need("expand")
        assert isinstance(self.backend, Growing)
        return self.backend

    @property
    def snapshotting(self) -> Snapshotting:
        """The pool, if it has snapshots; else the test is skipped."""
        self.need("snapshots")
        assert isinstance(self.backend, Snapshotting)
        return self.backend

    def request(
        self,
        name: str,
        *,
        required: int | None = None,
        limit: int = 0,
        source: ContentSource | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> CreateRequest:
        """Give a request for a volume."""
        return CreateRequest(
            csi_name=name,
            size=SizeRange(self._kit.volume_size if required is None else required, limit),
            parameters=self._kit.parameters if parameters is None else parameters,
            attributes={"direct": "auto"},
            source=source,
        )

    async def create(
        self, name: str, *, required: int | None = None, source: ContentSource | None = None
    ) -> Volume:
        """Create a volume, as often as it says "come again"."""
        request = self.request(name, required=required, source=source)
        for _ in range(_COMINGS):
            with contextlib.suppress(StillWorking):
                volume = await self.backend.create(request)
                if volume.ready:
                    return volume
            await asyncio.sleep(_PAUSE_S)
        raise AssertionError(f"volume {name!r} was still not made after {_COMINGS * _PAUSE_S:g} s")

    async def existing(self, volume_id: VolumeId) -> Volume:
        """Look up a volume that has to exist."""
        volume = await self.backend.get(volume_id)
        assert volume is not None, f"{volume_id} is gone"
        return volume

    async def attach(self, volume_id: VolumeId) -> Device:
        """Attach a volume to this node, published first where that is needed."""
        published = isinstance(self.backend, Fencing)
        return await self.attach_with(volume_id, await self.publish(volume_id) if published else {})

    async def attach_with(self, volume_id: VolumeId, context: Mapping[str, str]) -> Device:
        """Attach a volume to this node with what a publish gave."""
        device = await self.backend.attach(volume_id, context, self._kit.secrets)
        self._attachments[volume_id] = Attachment(device.path, context)
        return device

    async def publish(
        self, volume_id: VolumeId, node_id: str | None = None, *, read_only: bool = False
    ) -> Mapping[str, str]:
        """Let this node, or another one, reach the volume."""
        node = self.node_id if node_id is None else node_id
        fencing, facts = self.need_network(), {}
        if node == self.node_id and isinstance(self.backend, Identifying):
            facts = dict(await self.backend.node_facts())
        return await fencing.publish(volume_id, Node(node, facts), read_only=read_only)

    async def unpublish(self, volume_id: VolumeId, node_id: str | None = None) -> None:
        """Fence this node, or another one, or all (an empty name), off the volume."""
        await self.need_network().unpublish(volume_id, self.node_id if node_id is None else node_id)

    async def detach(self, volume_id: VolumeId) -> None:
        """Detach a volume from this node, and fence it off where that is needed."""
        await self.backend.detach(volume_id, self.attachment(volume_id))
        self._attachments.pop(volume_id, None)
        if isinstance(self.backend, Fencing):
            await self.unpublish(volume_id)

    def attachment(self, volume_id: VolumeId) -> Attachment:
        """Give what this node remembers of a volume that it attached."""
        return self._attachments.get(volume_id, UNREMEMBERED)

    async def attached(self, volume_id: VolumeId) -> Device | None:
        """Say which device a volume has on this node."""
        return await self.backend.attached(volume_id, self.attachment(volume_id))

    async def refresh(self, volume_id: VolumeId) -> int:
        """Make an attached device show the volume's present size."""
        return await self.backend.refresh(volume_id, self.attachment(volume_id))

    async def is_blank(self, volume_id: VolumeId) -> bool | None:
        """Ask for a proof that the whole device reads as zero."""
        return await self.backend.is_blank(volume_id, self.attachment(volume_id))

    async def condition(self, volume_id: VolumeId) -> Condition:
        """Examine the volume's health on this node."""
        return await self.backend.condition(volume_id, self.attachment(volume_id))

    async def delete(self, volume_id: VolumeId) -> None:
        """Detach and delete a volume."""
        await self.detach(volume_id)
        await self.backend.delete(volume_id)

    async def write(self, volume_id: VolumeId, data: bytes, offset: int = 0) -> None:
        """Write to a volume, attached for that and detached again."""
        device = await self.attach(volume_id)
        await asyncio.to_thread(blockio.write, device, data, offset)
        await self.detach(volume_id)

    async def read(self, volume_id: VolumeId, length: int, offset: int = 0) -> bytes:
        """Read from a volume, attached for that and detached again."""
        device = await self.attach(volume_id)
        data = await asyncio.to_thread(blockio.read, device, length, offset)
        await self.detach(volume_id)
        return data

    async def first_data(self, volume_id: VolumeId) -> int | None:
        """Say where a volume first reads as other than zero; None: nowhere."""
        device = await self.attach(volume_id)
        found = await asyncio.to_thread(blockio.first_data, device)
        await self.detach(volume_id)
        return found

    async def clear(self) -> None:
        """Delete every volume and snapshot; copies first, where a source cannot go before them.

        It is patient: on a busy machine somebody may look into a device just then.
        """
        errors: dict[str, KatacsiError] = {}
        for _ in range(_CLEARINGS):
            errors.clear()
            volumes = (await self.backend.list("", 0)).items
            snapshots: tuple[Snapshot, ...] = ()
            if isinstance(self.backend, Snapshotting):
                snapshots = (await self.backend.list_snapshots("", 0)).items
            if not volumes and not snapshots:
                return
            for volume in sorted(volumes, key=lambda volume: volume.created_at, reverse=True):
                try:
                    await self.delete(volume.id)
                except KatacsiError as error:
                    errors[str(volume.id)] = error
            for snapshot in snapshots:
                try:
                    await self.snapshotting.delete_snapshot(snapshot.id)
                except KatacsiError as error:
                    errors[str(snapshot.id)] = error
            if errors:
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError(f"cannot be deleted after the test: {errors or 'what list still shows'}")
