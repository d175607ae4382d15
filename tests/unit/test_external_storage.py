"""Kubernetes' external storage tests are those of the Kubernetes that they run against."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import kube_external
import kube_programs
from external.run import Choice, Outcome, gather

TREE = Path(__file__).resolve().parents[2]


def replaced(module: Path) -> set[str]:
    """Return the replace lines of a go.mod: at which version each module is held."""
    return set(re.findall(r"^\t\S+ => \S+ v\S+", (module / "go.mod").read_text("utf-8"), re.MULTILINE))


def test_the_tests_are_of_the_same_kubernetes():
    """Both Go modules ask for one Kubernetes, and hold all else at the versions of its release."""
    asked = re.search(r"k8s\.io/kubernetes (v\S+)", (kube_external.MODULE / "go.mod").read_text("utf-8"))
    assert asked is not None
    assert asked[1] == kube_programs.versions()["k8s.io/kubernetes"]
    assert replaced(kube_external.MODULE) == replaced(kube_programs.MODULE)


def test_what_is_left_out_has_its_reason():
    """Every filter of choice.yaml is a regular expression with a reason."""
    chosen = yaml.safe_load((TREE / "tests" / "external" / "choice.yaml").read_text("utf-8"))
    for each in chosen["skip"]:
        assert re.compile(each["match"])
        assert len(each["because"].split()) > 2, each


def test_every_skip_is_counted_with_its_reason():
    """A test that skipped itself is counted in its own words, one that we left out with our reason."""
    choice, outcome = Choice("nothing-of-it"), Outcome()
    told = "Driver local.katacsi.io doesn't support it -- skipping\nand more"
    for name, state, message in (
        ("External Storage a", "passed", ""),
        ("External Storage b", "timedout", "too late"),
        ("External Storage c", "skipped", told),
        ("External Storage a [Disruptive] b", "skipped", ""),
        ("External Storage d", "skipped", ""),
        ("External Storage nothing-of-it", "skipped", ""),
        ("External Storage e", "timedout", "A suite timeout occurred"),
        ("Another suite", "skipped", ""),
    ):
        test = {"ContainerHierarchyTexts": [name], "LeafNodeText": "x", "State": state, "RunTime": 1}
        gather(outcome, test | {"Failure": {"Message": message}}, choice)
    assert outcome.passed == ["External Storage a x"]
    assert outcome.failed == [("External Storage b x", "too late")]
    assert outcome.skipped == {
        told.splitlines()[0]: 1,
        "it restarts the kubelet by ssh; the tier kube restarts it, and cuts the node's power": 1,
        "--focus nothing-of-it does not match": 1,
        "--minutes were over": 2,
    }
