"""What the metrics page says of the present: read when it is asked for, not kept up to date in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import KatacsiError
from katacsi.volumes.publish.mode import Mode

if TYPE_CHECKING:
    from katacsi.volumes.context import Context
    from katacsi.volumes.pools import Pool


async def refresh(context: Context) -> None:
    """Set the gauges of pools, published volumes and growths that wait for a pod's restart."""
    for pool in context.pools:
        await _measure(context, pool)
    published = context.marks.all_published()
    context.metrics.pending_growths.set(await _pending_growths(context))
    for mode in Mode:
        count = sum(item.mode is mode for item in published)
        context.metrics.published_volumes.labels(mode.value).set(count)


async def _measure(context: Context, pool: Pool) -> None:
    usable, available = 1, 0
    try:
        available = (await (await pool.open()).capacity({})).available_bytes
    except KatacsiError:
        usable = 0
    context.metrics.pool_usable.labels(pool.name).set(usable)
    context.metrics.pool_available_bytes.labels(pool.name).set(available)


async def _pending_growths(context: Context) -> int:
    """Count the published volumes whose filesystem waits for the next start of their pod."""
    waiting = 0
    for volume_id in {item.volume_id for item in context.marks.all_published() if item.mode is Mode.DIRECT}:
        try:
            _, volume = await context.pools.find(volume_id)
        except KatacsiError:
            continue
        waiting += volume.facts.pending_size > 0
    return waiting
