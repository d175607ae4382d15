#!/usr/bin/env python3
"""Run Kubernetes' own tests of external storage against katacsi, in a real Kubernetes of one node, as root.

    make e2e                                   # what choice.yaml chooses
    make e2e ARGS="--focus subPath"            # of that, what this regular expression matches
    make e2e ARGS="--minutes 10"               # the rest counts as not run

The cluster is that of the tier `kube`. Its pods run busybox under the names of the suite's images.
docs/development.md says what is skipped.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import gotools
import kube_external
import kube_image
import kube_lab
import kubetools
from kube_cluster import Failed, bound_cluster
from support.kube_chart import install
from support.kube_lab import Lab
from support.kube_release import Plugin, start_snapshot_controller

if TYPE_CHECKING:
    from kube_cluster import Cluster

HERE = Path(__file__).resolve().parent
#: The registry that the suite is told to take its images from; they are imported, never pulled.
REGISTRY = "katacsi.test"
#: The suite's images whose place busybox can take.
IMAGES = ("agnhost", "busybox", "glibc-dns-testing", "nginx")
TIME_UP = "--minutes were over"
FAILED = {"failed", "panicked", "interrupted", "aborted", "timedout"}


@dataclass
class Outcome:
    """What came of the tests.

    Attributes:
        passed: names.
        failed: name and message.
        skipped: reason to how many.
    """

    passed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class Choice:
    """What choice.yaml chooses, and what the command line leaves of it."""

    def __init__(self, focus: str) -> None:
        chosen = yaml.safe_load((HERE / "choice.yaml").read_text("utf-8"))
        self.focus = focus or chosen["focus"]
        self.reasons = {each["match"]: each["because"] for each in chosen["skip"]}

    def reason(self, name: str) -> str:
        """Say why a test was left out by a filter."""
        for match, because in self.reasons.items():
            if re.search(match, name):
                return because
        if re.search(self.focus, name):
            return TIME_UP
        return f"--focus {self.focus} does not match"

    def options(self) -> list[str]:
        """Return the filters as options of Ginkgo."""
        return [f"--ginkgo.focus={self.focus}", *(f"--ginkgo.skip={match}" for match in self.reasons)]


def main() -> int:
    """Run the tests; exit code 1 when one fails, 2 when they cannot run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--focus", default="", help="a regular expression on the names of the tests")
    parser.add_argument("--minutes", type=float, default=120, help="then the suite is ended (120)")
    parser.add_argument("--log", type=Path, help="where the suite's report goes; by default it is not kept")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that cleans up, as Ctrl-C is
    if reason := kube_lab.why_not():
        print(f"e2e: {reason}", file=sys.stderr)
        return 2
    choice = Choice(wanted.focus)
    try:
        program = kube_external.program()
        outcome = run(program, choice, wanted)
    except (gotools.Unavailable, kubetools.Unavailable, Failed, AssertionError) as failure:
        print(f"e2e: {failure}", file=sys.stderr)
        return 2
    show(outcome)
    return 1 if outcome.failed or not outcome.passed else 0


def run(program: Path, choice: Choice, wanted: argparse.Namespace) -> Outcome:
    """Boot a cluster with katacsi, run the tests there, and leave nothing behind.

    Raises:
        Failed: the cluster does not start.
        AssertionError: the driver or a sidecar does not start; or no test was run.
    """
    with bound_cluster(Path("/var/tmp")) as cluster:
        images = put_images(cluster, program)
        lab = Lab(cluster)
        lab.up()
        try:
            chart = install(lab)
            start_snapshot_controller(lab)
            Plugin(lab, chart).start()
            return watch(lab, [str(program), *options(choice)], images, choice, wanted)
        finally:
            lab.down()


def put_images(cluster: Cluster, program: Path) -> Path:
    """Give the cluster busybox under the names of the suite's images; return the list of registries."""
    registries = cluster.folder / "registries.yaml"
    names = ("promoterE2eRegistry", "gcRegistry", "dockerLibraryRegistry")
    registries.write_text(yaml.safe_dump(dict.fromkeys(names, REGISTRY)), "utf-8")
    listed = subprocess.run(
        [program, f"--kube-test-repo-list={registries}", "--list-images"],
        capture_output=True,
        text=True,
        check=True,
    )
    for reference in set(listed.stdout.split()):
        name = reference.removeprefix(f"{REGISTRY}/").partition(":")[0]
        if reference.startswith(REGISTRY) and name in IMAGES:
            scripts = {"entrypoint": (HERE / "agnhost.sh").read_bytes()} if name == "agnhost" else {}
            archive = cluster.folder / "images" / f"{reference.replace('/', '_').replace(':', '_')}.tar"
            kube_image.write_busybox(archive, reference, kubetools.path("busybox"), scripts)
    return registries


def options(choice: Choice) -> list[str]:
    """Return the options of the suite, without those that depend on the cluster."""
    return [
        f"--storage.testdriver={HERE / 'driver.yaml'}",
        "--provider=local",
        "--dump-logs-on-failure=false",
        "--ginkgo.no-color",
        *choice.options(),
    ]


def watch(lab: Lab, argv: list[str], images: Path, choice: Choice, wanted: argparse.Namespace) -> Outcome:
    """Run the suite inside, and gather what came of each test."""
    log = wanted.log or lab.files.log / "external-storage.log"
    results = lab.files.log / "external-storage.json"
    argv += [
        f"--kube-test-repo-list={images}",
        f"--ginkgo.timeout={wanted.minutes}m",
        f"--ginkgo.json-report={results}",
    ]
    with log.open("wb") as report:
        code = subprocess.run(
            lab.cluster.entry(*argv),
            env=lab.cluster.environment(),
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=report,
            check=False,
        ).returncode
    outcome = Outcome()
    if results.exists():
        for test in json.loads(results.read_text("utf-8"))[0]["SpecReports"]:
            if test["LeafNodeType"] == "It":
                gather(outcome, test, choice)
    assert outcome.passed or outcome.failed, (
        f"no test was run, and the suite ended with {code}:\n{log.read_text('utf-8', 'replace')[-3000:]}"
    )
    return outcome


def gather(outcome: Outcome, test: dict, choice: Choice) -> None:
    """Add what came of a test, as Ginkgo reports it; what was run is shown."""
    name = " ".join([*(test["ContainerHierarchyTexts"] or ()), test["LeafNodeText"]])
    if not name.startswith("External Storage"):
        return  # a test of another suite, which Kubernetes' packages bring along
    message = test.get("Failure", {}).get("Message", "")
    short = name.removeprefix("External Storage [Driver: local.katacsi.io] ")
    if "suite timeout occurred" in message:
        outcome.skipped[TIME_UP] += 1
        return
    if test["State"] == "skipped":
        outcome.skipped[skip_reason(name, message, choice)] += 1
        return
    if test["State"] == "passed":
        outcome.passed.append(short)
    elif test["State"] in FAILED:
        outcome.failed.append((short, message))
    print(f"{test['State']:8} {test['RunTime'] / 1e9:6.1f} s  {short}")


def skip_reason(name: str, message: str, choice: Choice) -> str:
    """Say why a test was skipped: in the suite's words where it is the suite that did it."""
    return message.strip().splitlines()[0] if message else choice.reason(name)


def show(outcome: Outcome) -> None:
    """Print what failed and why, what was skipped and why, and the numbers."""
    for name, message in outcome.failed:
        print(f"\nFAILED {name}\n{message}")
    if outcome.skipped:
        print("\nskipped:")
    for reason, number in outcome.skipped.most_common():
        print(f"{number:5}  {reason}")
    print(
        f"\n{len(outcome.passed)} passed, {len(outcome.failed)} failed, {outcome.skipped.total()} skipped"
        f" of Kubernetes' external storage tests"
    )


if __name__ == "__main__":
    sys.exit(main())
