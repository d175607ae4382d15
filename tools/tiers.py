"""The tiers of tests: what each runs, and what it needs for that.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Tier:
    """A rung of the ladder: which folders under tests/ it runs, and what it needs for that."""

    name: str
    what: str
    folders: tuple[str, ...]
    root: bool = False
    programs: tuple[str, ...] = ()
    """Programs of tools/gotools.py or tools/kubetools.py, made before pytest starts: no test's timeout
    pays for it."""
    spread: bool = False
    """Whether its files are spread over all processors: they share nothing, and do nothing but compute."""
    beside: str = ""
    """Another tier with which it is started, when both run: each leaves a processor idle."""
    limit_s: int = 900
    """A tier that hangs is ended after this long and counts as failed, so that the others still run."""


# In the order they run: the cheap ones first. A later tier is a line here and a folder under tests/.
TIERS = (
    Tier("check", "lint, format, types, import contracts, generated files", ()),
    Tier("unit", "pure parts, no root", ("unit",), spread=True),
    Tier("rpc", "the services over an in-memory channel", ("rpc",)),
    Tier("host", "loop devices, mounts and mkfs on this machine", ("host",), root=True, limit_s=1800),
    Tier(
        "sanity",
        "the csi-sanity suite against the running driver",
        ("sanity",),
        root=True,
        programs=("csi-sanity",),
        limit_s=1800,
    ),
    Tier("crash", "SIGKILL at every step, then a retry", ("crash",), root=True, limit_s=1800),
    Tier(
        "lab",
        "real device-mapper, in machines of its own (user-mode Linux, QEMU)",
        ("lab",),
        programs=("csi-sanity",),
        limit_s=3600,
    ),
    Tier(
        "guest",
        "volumes as a guest sees them: hot-plug, growth, power cuts (QEMU)",
        ("guest",),
        root=True,
        beside="host",
        limit_s=2700,
    ),
    Tier("image", "the container image, built and run by runc", ("image",), root=True, limit_s=1800),
    Tier(
        "kube",
        "a real Kubernetes of one node: API server, scheduler, sidecars, kubelet, containerd",
        ("kube",),
        root=True,
        programs=("kube", "kubectl", "helm"),
        limit_s=1800,
    ),
)
BY_NAME = {tier.name: tier for tier in TIERS}


@dataclass
class Outcome:
    """What came of a tier."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    note: str = ""


def folders(tier: Tier) -> list[Path]:
    """Return the folders of a tier that hold tests."""
    return [folder for name in tier.folders if any((folder := TREE / "tests" / name).rglob("test_*.py"))]


def has_tests(tier: Tier) -> bool:
    """Tell whether there is anything to run; the checks always are."""
    return tier.name == "check" or bool(folders(tier))
