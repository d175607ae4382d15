"""What a start finds left over from before: pods that went while nobody listened, freezes that a crash kept.

Only what a mark of this boot names is ours; other people's records in the shared root are not even read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError
from katacsi.host.offloop import off_loop
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.stillness import thaw

if TYPE_CHECKING:
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.mark import Frozen, Published
    from katacsi.volumes.publish.unpublishing import Unpublishing

log = structlog.get_logger(__name__)


async def reconcile(context: Context, unpublishing: Unpublishing) -> None:
    """Thaw what a crash left frozen; take back direct publishes whose pod is gone.

    A publish that is half done is left for its retry, and one with a live sandbox for its unpublish.
    """
    for frozen in context.marks.all_frozen():
        await _thaw(context, frozen)
    for published in context.marks.all_published():
        if published.mode is Mode.DIRECT:
            await _take_back_if_abandoned(context, unpublishing, published)


async def _thaw(context: Context, frozen: Frozen) -> None:
    try:
        await off_loop(thaw, context.marks, frozen)
    except KatacsiError as error:
        log.warning("could not be thawed", path=frozen.path, error=error.message)


async def _abandoned(context: Context, published: Published) -> bool:
    """Whether the pod's directory is gone and no sandbox lives: nobody will ever unpublish this."""
    if await off_loop(Path(published.path).parent.exists):
        return False
    seen = await off_loop(context.writer.sighted, published.path)
    return not seen.live and not seen.doubts


async def _take_back_if_abandoned(context: Context, unpublishing: Unpublishing, published: Published) -> None:
    try:
        if not await _abandoned(context, published):
            return
        await unpublishing.unpublish(published.volume_id, published.path)
        log.info("record of a vanished pod removed", target=published.path, volume=published.volume_id)
    except KatacsiError as error:
        log.warning("record of a vanished pod stays", target=published.path, error=error.message)
