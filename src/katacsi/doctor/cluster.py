"""The Kubernetes API, where the driver is to ask it: whether it answers, and permits what is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.errors import KatacsiError, SettingsError
from katacsi.findings import NOT_LOOKED, Checks, Harm, failure, ok, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result, Unread
    from katacsi.settings import KubeSettings

CLUSTER: Final[Checks[Judge]] = Checks("Node")


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the API says of the driver's account.

    Attributes:
        server: where it is.
        fault: why it could not be asked; empty where it was.
        no_account: there are no credentials here, so nothing was asked.
        missing: what the account may not do, and what for.
    """

    server: str = ""
    fault: str = ""
    no_account: bool = False
    missing: tuple[str, ...] = ()


async def find(settings: KubeSettings) -> ClusterFacts | Unread:
    """Ask the API, with the credentials of the driver, if the configuration says that the driver does."""
    if not settings.enabled:
        return NOT_LOOKED
    from katacsi.kube import access  # noqa: PLC0415  # as in `katacsi.app`: others need not carry it
    from katacsi.kube.client import ClusterApi  # noqa: PLC0415
    from katacsi.kube.credentials import credentials_of  # noqa: PLC0415

    api = ClusterApi(credentials_of(settings), timeout_s=settings.timeout)
    try:
        await api.start()
        rules = (
            *access.NEEDED,
            *(access.FOR_ORPHANS if settings.orphan_interval else ()),
            *(access.FOR_EVENTS if settings.events else ()),
        )
        lacking = await access.missing(api, rules)
        return ClusterFacts(api.server, missing=tuple(f"{rule} ({rule.why})" for rule in lacking))
    except SettingsError as error:
        return ClusterFacts(fault=error.message, no_account=True)
    except KatacsiError as error:
        return ClusterFacts(api.server, error.message)
    finally:
        await api.close()


@CLUSTER.add(
    "node-cluster",
    "the Kubernetes API answers the driver, and permits what it asks",
    Harm.PODS,
    "With `kube.enabled` a claim that cannot be read gets no volume, and a pod that cannot be read does not "
    "get its own.",
)
def cluster(node: Node) -> Iterator[Result]:
    """Look at what was asked of the API."""
    facts = node.cluster
    if not isinstance(facts, ClusterFacts):
        return
    subject = facts.server or "Kubernetes API"
    if facts.no_account:
        # Outside of the driver's pod that is no fault of the driver's.
        yield unknown(subject, facts.fault, "run doctor in the driver's pod", Harm.NONE)
    elif facts.fault:
        yield failure(subject, facts.fault, "see that this node reaches the API server, and by which account")
    elif facts.missing:
        yield failure(
            subject,
            f"the driver's account may not: {', '.join(facts.missing)}",
            "give its ServiceAccount these rules, in all namespaces; the chart's role driver has them",
        )
    else:
        yield ok(subject, "answers, and permits what the driver asks")
