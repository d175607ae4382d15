"""Creating, finding, listing and deleting volumes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import CreateRequest, Scope
from katacsi.errors import (
    AlreadyExists,
    InvalidRequest,
    OutOfSpace,
    PoolUnavailable,
    Precondition,
    StillWorking,
    VolumeInUse,
    WrongNode,
)
from katacsi.host.offloop import off_loop
from katacsi.model import MalformedId, SizeRange, SnapshotId, VolumeId, storage_name
from katacsi.volumes import capabilities, claims, listing, parameters, unused
from katacsi.volumes.copies import content_source
from katacsi.volumes.locks import snapshot_lock, volume_lock
from katacsi.volumes.publish.mode import Asked
from katacsi.volumes.requests import SourceKind, Validation, VolumePage, VolumeView
from katacsi.volumes.room import Room

if TYPE_CHECKING:
    from katacsi.backends.api import Backend, Capacity, Volume
    from katacsi.volumes.context import Context
    from katacsi.volumes.copies import Copies
    from katacsi.volumes.pools import Pool
    from katacsi.volumes.requests import CreateVolume, GetCapacity, SourceRef, ValidateCapabilities

log = structlog.get_logger(__name__)


class Provisioning:
    """The controller's side of volumes."""

    def __init__(self, context: Context, copies: Copies) -> None:
        self._context = context
        self._copies = copies
        self._room = Room(context)

    async def create(self, request: CreateVolume) -> VolumeView:
        """Create the volume, or give the one that an earlier call with the same name and wishes made.

        Raises:
            InvalidRequest, SizeOutOfRange: the wishes cannot be met by any volume.
            AlreadyExists: the name is taken by a volume with other wishes.
            OutOfSpace: no room here, the pool is not here or cannot be used, or this is not a node where the
                volume may be.
            Precondition: the claim asks for something that is not legal, or is gone.
            Unavailable: the claim cannot be read now.
        """
        chosen = parameters.parse(request.parameters)
        cluster = self._context.cluster
        made_for = claims.reference(request.parameters, request.name)
        claim = made_for if cluster else None
        for capability in request.capabilities:
            # What a claim asks for is known only below, and wins over the StorageClass.
            capabilities.check(capability, Asked.AUTO if claim else chosen.asked)
        pool = self._context.pools.choose(chosen.pool)
        pool.check_parameters(chosen.backend_name, chosen.backend)
        fs_type = capabilities.filesystem_of(request.capabilities, self._context.settings.default_filesystem)
        capabilities.check_mkfs_options(fs_type, chosen.mkfs_options)
        for capability in request.capabilities:
            capabilities.check_mount_flags(capability, capability.fs_type or fs_type)
        self._check_reachable(request)
        # A copy is as large as its source unless more is asked for; only a blank volume needs a default.
        size = request.size if request.source else self._size(request.size, fs_type)
        try:
            with self._context.locks.hold(
                volume_lock(storage_name(request.name)), *_source_locks(request.source)
            ):
                await self._check_name_free_elsewhere(request.name, pool)
                backend = await pool.open()
                if cluster is not None and claim is not None:
                    existing = await backend.find(request.name)
                    chosen = await claims.overlaid(cluster, claim, chosen, existing)
                    for capability in request.capabilities:
                        capabilities.check(capability, chosen.asked)
                attributes = chosen.attributes(fs_type, self._context.settings.kube.cluster_name)
                wanted = CreateRequest(request.name, size, chosen.backend, attributes)
                if request.source is None:
                    being_made = self._room.being_made(pool.name, request.name, size.required)
                    with being_made, tracing.span("create"):
                        volume = await backend.create(wanted)
                else:
                    named = any(capability.fs_type for capability in request.capabilities)
                    volume = await self._create_copy(backend, wanted, request.source, pool.name, named=named)
                _check_same_wishes(volume, wanted, request)
                if not volume.ready:
                    raise StillWorking(f"volume {volume.id}: is still being made; come again")
        except PoolUnavailable as error:
            if self._context.pools.scope is Scope.NETWORK:
                raise  # no other process could ask either, and the volume may exist by now
            # Final for the caller, who then lets another node make it; UNAVAILABLE would pin the claim here.
            raise OutOfSpace(f"{error.message}; until then, another node may make volumes") from error
        log.debug("volume created", volume=str(volume.id), size_bytes=volume.size_bytes)
        view = self._view(volume)
        return replace(view, context={**view.context, **claims.in_context(made_for)})

    async def _create_copy(
        self, backend: Backend, wanted: CreateRequest, ref: SourceRef, pool_name: str, *, named: bool
    ) -> Volume:
        existing = await backend.find(wanted.csi_name)
        if existing is not None and existing.source is not None and str(existing.source.id) == ref.id:
            # A retry: the source may be gone or in use by now, and does not matter any more.
            return await backend.create(replace(wanted, source=existing.source))
        source = await self._copies.source_of(ref, backend, pool_name)
        fs_type = wanted.attributes.get(parameters.FILESYSTEM, "")
        if fs_type and not named and source.facts.fs_type:
            # The caller left the choice to us, and a copy has what its source has.
            fs_type = source.facts.fs_type
            wanted = replace(wanted, attributes={**wanted.attributes, parameters.FILESYSTEM: fs_type})
        capabilities.check_size(fs_type, max(wanted.size.required, source.size_bytes))
        self._copies.check_copy(source, wanted.size, fs_type)
        size_bytes = max(wanted.size.required, source.size_bytes)
        with self._room.being_made(pool_name, wanted.csi_name, size_bytes):
            return await self._copies.copy(backend, replace(wanted, source=content_source(source)), source)

    async def delete(self, volume_id: str) -> None:
        """Free the volume and its bytes; absent is success.

        Raises:
            VolumeInUse: it is staged or published here.
            Precondition: it lives in a pool that this node does not have.
        """
        try:
            parsed = VolumeId.parse(volume_id)
        except MalformedId:
            return
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend = await self._context.pools.holding(parsed)
            self._check_unused(volume_id)
            await self._delete(backend, parsed)
        log.debug("volume deleted", volume=volume_id)

    async def _delete(self, backend: Backend, volume_id: VolumeId) -> None:
        stack = self._context.volumes.devices_of(backend, volume_id)
        if devices := await stack.look():
            # Neither staged nor published, as far as is known: what is there is looked at.
            await off_loop(unused.require_unpublished, self._context.writer, volume_id, devices, ())
            await stack.require_unheld()
        if len(devices) > 1:
            await stack.detach()
        with tracing.span("delete"):
            await backend.delete(volume_id)

    async def get(self, volume_id: str) -> VolumeView:
        """Give one volume with its present condition.

        Raises:
            NotFound: it is proven absent.
        """
        backend, volume = await self._context.pools.find(volume_id)
        view = self._view(volume)
        attachment = self._context.volumes.attachment_of(volume.id)
        condition = await backend.condition(volume.id, attachment)
        return VolumeView(view.volume, view.context, view.topology, condition)

    async def validate(self, request: ValidateCapabilities) -> Validation:
        """Say whether a volume can be used in all these ways.

        Raises:
            NotFound: it is proven absent.
        """
        _, volume = await self._context.pools.find(request.volume_id)
        attributes = parameters.effective(volume.attributes, request.volume_context)
        try:
            asked = parameters.asked_for(attributes)
            if request.parameters:
                parameters.parse(request.parameters)
            for capability in request.capabilities:
                capabilities.check(capability, asked)
                capabilities.check_kind(volume, capability)
                capabilities.check_mount_flags(capability, capability.fs_type or volume.facts.fs_type)
                if capability.fs_type and volume.facts.fs_type not in ("", capability.fs_type):
                    return Validation(confirmed=False, message=f"the volume holds {volume.facts.fs_type}")
        except (InvalidRequest, Precondition) as refused:
            return Validation(confirmed=False, message=refused.message)
        return Validation(confirmed=True)

    async def list(self, token: str, max_entries: int) -> VolumePage:
        """Give part of the list of all volumes of all pools.

        Raises:
            InvalidPageToken: not a token of a former page.
        """
        volumes, following = await listing.page(
            self._context.pools,
            token,
            max_entries,
            lambda backend, cursor, limit: backend.list(cursor, limit),
        )
        return VolumePage(tuple(self._view(volume) for volume in volumes), following)

    async def capacity(self, request: GetCapacity) -> Capacity:
        """Say how much room there is for volumes of a StorageClass, as `Room.left`."""
        return await self._room.left(request)

    # -- what a request has to be true of --------------------------------------------------------------

    def _size(self, wished: SizeRange, fs_type: str) -> SizeRange:
        if wished.required:
            capabilities.check_size(fs_type, wished.required)
            return wished
        default = max(self._context.settings.default_volume_size, capabilities.least_size(fs_type))
        if wished.limit and wished.limit < default:
            capabilities.check_size(fs_type, wished.limit)
            default = wished.limit
        return SizeRange(default, wished.limit)

    def _check_reachable(self, request: CreateVolume) -> None:
        if not request.requisite or self._context.pools.scope is Scope.NETWORK:
            return
        if not any(self._context.is_here(topology.segments) for topology in request.requisite):
            raise WrongNode(
                f"volume {request.name!r}: has to be on another node than {self._context.node_id}; the "
                "provisioner there makes it"
            )

    async def _check_name_free_elsewhere(self, name: str, pool: Pool) -> None:
        found = await self._context.pools.elsewhere(name, pool)
        if found is not None:
            raise AlreadyExists(
                f"volume {name!r}: exists in pool {found.id.pool}, and pool {pool.name} was asked for"
            )

    def _check_unused(self, volume_id: str) -> None:
        used = [item.path for item in self._context.marks.targets_of(volume_id)]
        used += [item.path for item in self._context.marks.stagings_of(volume_id)]
        if used:
            raise VolumeInUse(f"volume {volume_id}: is in use at {used[0]}; unpublish and unstage it first")

    def _view(self, volume: Volume) -> VolumeView:
        local = self._context.pools.scope is Scope.LOCAL
        return VolumeView(
            volume=volume,
            context=parameters.volume_context(volume.attributes),
            topology=(self._context.topology,) if local else (),
            condition=volume.condition,
        )


def _check_same_wishes(volume: Volume, wanted: CreateRequest, request: CreateVolume) -> None:
    """Refuse a volume of that name made for another filesystem or mode: a backend stores these blindly.

    Raises:
        AlreadyExists: with what the volume was made for.
    """
    had, wishes = dict(volume.attributes), dict(wanted.attributes)
    named = any(capability.fs_type for capability in request.capabilities)
    if not named and parameters.FILESYSTEM in had and parameters.FILESYSTEM in wishes:
        # The choice was ours; the default may have been another one when the volume was made.
        wishes[parameters.FILESYSTEM] = had[parameters.FILESYSTEM]
    wishes = claims.as_first_read(wishes, had)
    # What its cluster was called when it was made is no wish.
    wishes, had = ({k: v for k, v in each.items() if k != parameters.CLUSTER} for each in (wishes, had))
    if had != wishes:
        raise AlreadyExists(
            f"volume {volume.id}: exists, made for {had or 'raw use'}, and {wishes or 'raw use'} is asked "
            "for; delete it, or choose another name"
        )


def _source_locks(source: SourceRef | None) -> list[str]:
    """Hold the source too: it must not be deleted, grown or published while its bytes are copied."""
    if source is None:
        return []
    try:
        if source.kind is SourceKind.SNAPSHOT:
            return [snapshot_lock(SnapshotId.parse(source.id).name)]
        return [volume_lock(VolumeId.parse(source.id).name)]
    except MalformedId:
        return []
