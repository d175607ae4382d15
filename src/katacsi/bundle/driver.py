"""What the driver was told, what it has, and what it says of itself."""

from __future__ import annotations

import http.client
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from katacsi import app
from katacsi.backends import registry
from katacsi.backends.api import Snapshotting
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.doctor import examine
from katacsi.errors import HostError, KatacsiError
from katacsi.host.offloop import off_loop
from katacsi.inventory import collecting, views
from katacsi.logs import REDACTED
from katacsi.volumes.publish.marks import Marks

if TYPE_CHECKING:
    from katacsi.bundle.parts import Subject
    from katacsi.findings import Finding
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pool

_METRICS_TIMEOUT_S: Final = 10.0
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # compared, not listened on


async def configuration(subject: Subject) -> object:
    """Give the settings in force, defaults and the environment's among them."""
    found = subject.known.model_dump(mode="json")
    for name, keys in marked_secret(subject.settings).items():
        found["pools"][name] |= dict.fromkeys(keys, REDACTED)
    return found


def marked_secret(settings: Settings | None) -> dict[str, dict[str, Any]]:
    """Give what a pool's backend marks as secret (pydantic's SecretStr), by pool and key."""
    found: dict[str, dict[str, Any]] = {}
    for name, pool in (settings.pools if settings else {}).items():
        with suppress(KatacsiError):  # no such backend: nobody can say what its keys mean
            said = registry.load(pool["backend"]).Settings.model_json_schema().get("properties", {})
            found[name] = {key: value for key, value in pool.items() if said.get(key, {}).get("writeOnly")}
    return found


async def findings(subject: Subject) -> object:
    """Give what `katacsi doctor` says."""
    found = await examine.examine(subject.settings, host_root=subject.host_root)
    return {
        "summary": examine.summary(found),
        "configuration": subject.problem or "used",
        "findings": [examine.as_json(one) for one in found if not _of_others(one, subject)],
    }


def _of_others(finding: Finding, subject: Subject) -> bool:
    """Whether it tells of a single record that is not this driver's."""
    name = finding.result.subject
    return (
        finding.check.id.startswith("records-")
        and name != "records"
        and subject.marks.published(name) is None
    )


async def pools(subject: Subject) -> object:
    """Give each pool with its room, its volumes with their facts, and its snapshots; or its problem."""
    found = app.pools_of(subject.known, subject.node_id, read_only=True)
    try:
        return [await _pool(pool, subject.marks) for pool in sorted(found, key=lambda pool: pool.name)]
    finally:
        await found.close()


async def _pool(pool: Pool, marks: Marks) -> dict[str, Any]:
    head = {"name": pool.name, "backend": pool.backend_name, "scope": pool.scope.value}
    try:
        backend = await pool.open()
        volumes = [
            {**views.as_json(view), "facts": view.volume.facts.to_dict()}
            for view in await collecting.views_of(pool, marks)
        ]
        snapshots: list[dict[str, Any]] = []
        if isinstance(backend, Snapshotting):
            page = await backend.list_snapshots("", 0)
            snapshots = [{**asdict(one), "id": str(one.id), "source": str(one.source)} for one in page.items]
    except KatacsiError as error:
        return {**head, "error": error.message}
    return {**head, "uid": backend.pool_uid, "volumes": volumes, "snapshots": snapshots}


async def marks(subject: Subject) -> object:
    """Give what this boot's calls left; of what a volume is attached with, only the keys."""
    found = Marks(subject.known.state_path)
    await found.load(view=True)
    return {
        "staged": [
            {**asdict(mark), "publish_context": dict.fromkeys(mark.publish_context, REDACTED)}
            for mark in found.all_staged()
        ],
        "published": [{**asdict(mark), "mode": mark.mode.value} for mark in found.all_published()],
        "frozen": [asdict(mark) for mark in found.all_frozen()],
    }


async def records(subject: Subject) -> object:
    """Give this driver's records, and only the number of all others."""
    entries = await off_loop(DirectVolumeWriter(subject.known.direct_volume_root).listing)
    ours = [entry for entry in entries if entry.target and subject.marks.published(entry.target)]
    return {"records": [asdict(entry) for entry in ours], "of_others": len(entries) - len(ours)}


async def metrics(subject: Subject) -> object:
    """Ask the driver's metrics page."""
    address = subject.known.metrics.address
    if address is None:
        raise KatacsiError("metrics.address is not set, so there is no page to ask")
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if port == "0":
        raise KatacsiError("metrics.address has port 0: which port it became, only the driver's log says")
    return await off_loop(_page, "127.0.0.1" if host in _EVERYWHERE else host, int(port))


def _page(host: str, port: int) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=_METRICS_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{host}:{port}: does not answer ({error}); is the driver running?") from error
    finally:
        connection.close()
