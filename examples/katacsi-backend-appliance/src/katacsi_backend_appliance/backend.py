"""The backend. What each method has to do is said in katacsi.backends.protocols; here is only the how.

The appliance keeps volumes, facts and who may reach them; the node logs in. In place of an iSCSI login there
is a loop device over the file that the appliance exports for one publish, so that this example runs anywhere.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.backends.api import (
    UNREMEMBERED,
    Attachment,
    Capacity,
    Device,
    Facts,
    Node,
    Page,
    Role,
    Scope,
    Volume,
)
from katacsi.backends.tools import (
    RecordFolder,
    check_known,
    check_own,
    check_volume,
    check_writable,
    fitting,
    off_loop,
    require_unheld,
    run_tool,
    set_writable,
)
from katacsi.errors import HostError, InvalidPageToken, NotFound, Precondition, Unsupported
from katacsi.model import Condition, VolumeId, is_storage_name, storage_name
from pydantic import BaseModel, ConfigDict, Field

from katacsi_backend_appliance.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import CreateRequest, PoolContext

_SECTOR = 4096


class ApplianceSettings(BaseModel):
    """A pool of an appliance."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="The address of the appliance's API, such as http://storage:8080.")


class ApplianceBackend:
    """Volumes of an appliance, which any node can have, one at a time."""

    Settings = ApplianceSettings
    parameters: Mapping[str, str] = {}
    scope = Scope.NETWORK

    def __init__(self, settings: ApplianceSettings, context: PoolContext) -> None:
        self._context = context
        self._client = Client(settings.url, context.pool)
        self._url = settings.url
        self._uid = ""
        self._logins: RecordFolder | None = None
        if context.state_directory is not None and context.role is not Role.CONTROLLER:
            self._logins = RecordFolder(context.state_directory / "logins", context.pool)

    @property
    def pool_uid(self) -> str:
        return self._uid

    async def start(self) -> None:
        await self._client.open()
        # What the appliance says of itself: the same on every node, and another one's is another.
        self._uid = (await self._client.ask("GET", "/pool"))["serial"]
        if self._logins is not None:
            await off_loop(self._logins.open, read_only=False, exclusive=False)

    async def close(self) -> None:
        await self._client.close()
        if self._logins is not None:
            await off_loop(self._logins.close)

    # -- on the controller: its volumes ------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Volume:
        check_writable(self._context.pool, read_only=self._context.read_only)
        check_known(request.parameters, self.parameters, "appliance.katacsi.io/")
        if request.source:
            raise Unsupported(f"pool {self._context.pool!r} cannot copy {request.source.id}")
        name = storage_name(request.csi_name)
        if (existing := await self._look(name)) is not None:
            check_volume(existing, request)
            return existing
        size = fitting(request.size, 0, _SECTOR, _SECTOR, f"whole sectors of {_SECTOR} bytes")
        # One request makes all of it, also if this process dies meanwhile; a repeated one finds it.
        made = await self._client.ask(
            "PUT",
            f"/volumes/{name}",
            csi_name=request.csi_name,
            size=size,
            attributes=dict(request.attributes),
            facts=Facts().to_dict(),
            created_at=time.time(),
        )
        volume = self._volume(name, made)
        check_volume(volume, request)
        return volume

    async def delete(self, volume_id: VolumeId) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        await self._client.ask("DELETE", f"/volumes/{self._own(volume_id)}")

    async def get(self, volume_id: VolumeId) -> Volume | None:
        return await self._look(self._own(volume_id))

    async def find(self, csi_name: str) -> Volume | None:
        return await self._look(storage_name(csi_name))

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        if cursor and not is_storage_name(cursor):
            raise InvalidPageToken(f"{cursor!r} is no cursor of this pool; start again without a token")
        answer = await self._client.ask("GET", f"/volumes?after={cursor}&limit={limit}")
        items = tuple(self._volume(name, entry) for name, entry in answer["volumes"])
        return Page(items, next_cursor=answer["next"])

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        check_known(parameters, self.parameters, "appliance.katacsi.io/")
        free = (await self._client.ask("GET", "/pool"))["free"]
        return Capacity(free, free, _SECTOR)

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        # Several nodes do this at once, so the appliance compares.
        path = f"/volumes/{self._own(volume_id)}/facts"
        await self._client.ask("PUT", path, expected=expected.to_dict(), new=new.to_dict())

    async def publish(self, volume_id: VolumeId, node: Node, *, read_only: bool) -> Mapping[str, str]:
        path = f"/volumes/{self._own(volume_id)}/access"
        answer = await self._client.ask("PUT", path, node=node.id, read_only=read_only)
        return {"export": answer["export"]}

    async def unpublish(self, volume_id: VolumeId, node_id: str) -> None:
        await self._client.ask("DELETE", f"/volumes/{self._own(volume_id)}/access", node=node_id)

    # -- on the node: its devices ------------------------------------------------------------------

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        check_writable(self._context.pool, read_only=self._context.read_only)
        name = self._own(volume_id)
        entry = await self._client.ask("GET", f"/volumes/{name}")
        access, export = entry["access"], publish_context.get("export", "")
        if not access or access["node"] != self._context.node_id or access["export"] != export:
            raise Precondition(
                f"volume {volume_id}: is not published to {self._context.node_id} (any more); it is "
                f"published to {access['node'] if access else 'nobody'}"
            )
        path, new = await off_loop(self._log_in, name, export)
        return Device(path, entry["size"], new=new, volume=self._volume(name, entry))

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        name = self._own(volume_id)
        found = await off_loop(self._logged_in, name, attachment)
        if found is None and await self._look(name) is None:
            return None
        return found

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        await off_loop(self._log_out, self._own(volume_id), attachment)

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        await off_loop(self._log_out, volume_id.name, attachment)

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        entry = await self._client.ask("GET", f"/volumes/{self._own(volume_id)}")
        return int(entry["size"])

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        return None

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        entry = await self._client.ask("GET", f"/volumes/{self._own(volume_id)}")
        fault = entry["fault"]
        return Condition(abnormal=bool(fault), message=fault)

    # -- in a thread: the logins of this node --------------------------------------------------------

    def _log_in(self, name: str, export: str) -> tuple[Path, bool]:
        if self._logins is None:
            raise Precondition(f"volume {name}: a controller attaches nothing")
        # Noted before it is made: what a crash leaves is found.
        self._logins.write(name, {"export": export})
        for device in _devices_of(export):
            return device, False
        found = run_tool(["losetup", "--find", "--show", export], timeout_s=30)
        device = Path(found.stdout.decode().strip())
        set_writable(device)
        return device, True

    def _logged_in(self, name: str, attachment: Attachment) -> Device | None:
        for device in _devices_of(self._export(name, attachment)):
            size = run_tool(["blockdev", "--getsize64", device], timeout_s=30)
            return Device(device, int(size.stdout))
        return None

    def _log_out(self, name: str, attachment: Attachment) -> None:
        for device in _devices_of(self._export(name, attachment)):
            require_unheld(f"volume {name}", device)
            run_tool(["losetup", "--detach", device], timeout_s=30)
        if self._logins is not None and self._logins.uid:
            self._logins.remove(name)

    def _export(self, name: str, attachment: Attachment) -> str:
        """Say what was logged in to: by what katacsi remembers since the boot, or by our own note."""
        if export := attachment.publish_context.get("export", ""):
            return export
        if self._logins is None or not self._logins.uid:
            if attachment.device is None or not attachment.device.exists():
                return ""
            return _backing_of(attachment.device)
        return (self._logins.read(name) or {}).get("export", "")

    # -- both --------------------------------------------------------------------------------------

    async def _look(self, name: str) -> Volume | None:
        try:
            return self._volume(name, await self._client.ask("GET", f"/volumes/{name}"))
        except NotFound:
            return None  # the appliance's own word on this volume, not any 404

    def _own(self, volume_id: VolumeId) -> str:
        remedy = "point the pool's `url` at the former appliance"
        check_own(volume_id, self._context.pool, self._uid, storage=self._url, remedy=remedy)
        return volume_id.name

    def _volume(self, name: str, entry: dict[str, Any]) -> Volume:
        return Volume(
            id=VolumeId(self._context.pool, self._uid, name),
            csi_name=entry["csi_name"],
            size_bytes=entry["size"],
            facts=Facts.from_dict(entry["facts"]),
            attributes=entry["attributes"],
            created_at=entry["created_at"],
        )


def _devices_of(export: str) -> list[Path]:
    """Give the devices that are logged in to an export, also to one that the appliance took away."""
    if not export:
        return []
    return [device for device, backing in _logins().items() if backing == export]


def _backing_of(device: Path) -> str:
    return _logins().get(device, "")


def _logins() -> dict[Path, str]:
    shown = run_tool(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"], timeout_s=30).stdout
    try:
        entries = json.loads(shown)["loopdevices"] if shown.strip() else []
    except (ValueError, KeyError) as error:
        raise HostError(f"losetup --list: cannot be read ({error}); what is attached is not known") from error
    return {Path(entry["name"]): (entry["back-file"] or "").removesuffix(" (deleted)") for entry in entries}
