"""All workflows of one process, put together; this is what the door is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.backends.api import Scope
from katacsi.volumes.copies import Copies
from katacsi.volumes.expansion import Expansion
from katacsi.volumes.fencing import VolumeFencing
from katacsi.volumes.formatting import Formatter
from katacsi.volumes.growth import Growth
from katacsi.volumes.node import NodeIdentity
from katacsi.volumes.orphans import Orphans
from katacsi.volumes.provisioning import Provisioning
from katacsi.volumes.publish.block import BlockRoute
from katacsi.volumes.publish.direct import DirectRoute
from katacsi.volumes.publish.host import HostRoute
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.publish.unpublishing import Unpublishing
from katacsi.volumes.publish.workflow import Publishing
from katacsi.volumes.reconcile import reconcile
from katacsi.volumes.snapshots import Snapshots
from katacsi.volumes.staging import Staging
from katacsi.volumes.usage import UsageReader

if TYPE_CHECKING:
    from katacsi.backends.api import Features
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.route import Route


@dataclass(frozen=True, slots=True)
class Workflows:
    """One object for each group of calls."""

    context: Context
    provisioning: Provisioning
    snapshots: Snapshots
    staging: Staging
    publishing: Publishing
    unpublishing: Unpublishing
    expansion: Expansion
    usage: UsageReader
    node: NodeIdentity
    fencing: VolumeFencing | None
    orphans: Orphans | None

    @classmethod
    def of(cls, context: Context) -> Workflows:
        """Put the workflows together."""
        copies = Copies(context)
        formatter = Formatter(context.settings, context.metrics)
        growth = Growth(context.settings)
        direct_route = DirectRoute(context.settings, context.marks, context.writer, growth)
        routes: dict[Mode, Route] = {
            Mode.BLOCK: BlockRoute(context.marks),
            Mode.DIRECT: direct_route,
            Mode.HOST: HostRoute(context.settings, growth),
        }
        return cls(
            context=context,
            provisioning=Provisioning(context, copies),
            snapshots=Snapshots(context, copies),
            staging=Staging(context, formatter, growth),
            publishing=Publishing(context, routes),
            unpublishing=Unpublishing(context),
            expansion=Expansion(context, growth, direct_route),
            usage=UsageReader(context),
            node=NodeIdentity(context),
            fencing=VolumeFencing(context) if context.pools.scope is Scope.NETWORK else None,
            orphans=None if context.cluster is None else Orphans(context, context.cluster),
        )

    @property
    def features(self) -> Features:
        """What the release's pools can do together."""
        return self.context.pools.features

    async def start(self) -> None:
        """Open the pools, read this boot's facts, and clear up what no call will come back for."""
        if self.context.cluster is not None:
            await self.context.cluster.start()
        await self.context.pools.start()
        await self.context.marks.load()
        await reconcile(self.context, self.unpublishing)
        if self.orphans is not None:
            self.orphans.start()

    async def close(self) -> None:
        """Let go of the pools and the cluster; volumes stay as they are."""
        if self.orphans is not None:
            await self.orphans.close()
        await self.context.pools.close()
        if self.context.cluster is not None:
            await self.context.cluster.close()
