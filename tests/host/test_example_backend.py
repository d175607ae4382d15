"""Backends from other packages: installed, found by their entry points, and held to the same contract."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: Why the examples' tests may be skipped.
REASONS = (
    "no such feature",
    "are given",
    "no hook",
    "its scope is not NETWORK",
    "served from several places",
    "others have to sync",
    "brings no checks",
)


@pytest.fixture(scope="module", params=["katacsi-backend-example", "katacsi-backend-appliance"])
def example(request):
    """The folder of one of the examples."""
    return EXAMPLES / request.param


@pytest.fixture(scope="module")
def site(tmp_path_factory, example):
    """A folder that holds the example as an installer leaves it: its wheel, unpacked."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "example"
    subprocess.run(["cp", "-r", example, source], check=True)
    # hatchling itself, not pip or uv: building needs neither network nor an environment of its own.
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels], cwd=source, check=True
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def python(site, *arguments, cwd):
    """Run Python with the example installed."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_it_is_found_without_being_imported(site, tmp_path, example):
    """`installed` names the package and its version, and imports neither it nor our own backend."""
    module = example.name.replace("-", "_")
    name = {"katacsi_backend_example": "disks"}.get(module, "appliance")
    program = (
        "import sys; from katacsi.backends import registry\n"
        "for entry in registry.installed(): print(*entry)\n"
        f"print('{module}' in sys.modules, 'katacsi.backends.loopfile' in sys.modules)\n"
        f"print(registry.load('{name}').__name__)"
    )
    answer = python(site, "-c", program, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert f"{name} {example.name} 0.1.0" in lines
    assert lines[-2:] == ["False False", f"{name.title()}Backend"]


def test_it_passes_its_own_conformance_tests(site, scratch, example):
    """The example's tests, run as its author runs them, pass; what is skipped says what it lacks."""
    arguments = ["-m", "pytest", "-q", "--basetemp", str(scratch / "work"), "-p", "no:cacheprovider"]
    answer = python(site, *arguments, cwd=example)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "passed" in answer.stdout
    skipped = [line for line in answer.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    assert all(any(reason in line for reason in REASONS) for line in skipped), skipped
