"""The descriptors of csi.proto: ours, as protoc reads it, and the one that the CSI Go module carries."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

ROOT = Path(__file__).parents[3]
OFFICIAL = Path(__file__).parent / "official"


@pytest.fixture(scope="session")
def root():
    """The top of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def our_set(tmp_path_factory):
    """The descriptor of proto/csi.proto and of all it imports."""
    target = tmp_path_factory.mktemp("descriptors") / "csi.binpb"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-Iproto", "--include_imports"),
            *(f"--descriptor_set_out={target}", "proto/csi.proto"),
        ],
        cwd=ROOT,
        check=True,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())


@pytest.fixture(scope="session")
def pool(our_set):
    """A pool with our csi.proto: what official protobuf makes its messages from."""
    pool = descriptor_pool.DescriptorPool()
    for file in our_set.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@pytest.fixture(scope="session")
def csi_file(pool):
    """The descriptor of our csi.proto in that pool."""
    return pool.FindFileByName("csi.proto")


@pytest.fixture(scope="session")
def official_version():
    """The release that the Go module is pinned to."""
    pin = re.search(r"container-storage-interface/spec v(\S+)", (OFFICIAL / "go.mod").read_text())
    return pin.group(1)


@pytest.fixture(scope="session")
def official_set(official_version):
    """The descriptor that the CSI Go module carries, printed once by official/main.go and then cached."""
    recipe = b"".join((OFFICIAL / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    name = f"csi-descriptor-{official_version}-{hashlib.sha256(recipe).hexdigest()[:12]}.binpb"
    cached = cache_folder() / name
    if not cached.exists():
        print_descriptor(cached)
    return descriptor_pb2.FileDescriptorSet.FromString(cached.read_bytes())


def cache_folder():
    return Path(os.environ.get("KATACSI_CACHE") or Path.home() / ".cache" / "katacsi")


def print_descriptor(target):
    """Run official/main.go; a half-written result is never taken for a cached one."""
    go = find_go()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        written = Path(scratch) / target.name
        done = subprocess.run(
            [go, "run", "-mod=readonly", "-buildvcs=false", ".", written],
            cwd=OFFICIAL,
            env=os.environ | {"GOFLAGS": "", "GOWORK": "off"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"the official descriptor could not be printed; go run said:\n{done.stderr}")
        written.replace(target)


def find_go():
    """A Go new enough for official/go.mod; without one the test is skipped, or fails where it must run."""
    wanted = re.search(r"^go (\S+)", (OFFICIAL / "go.mod").read_text(), re.MULTILINE).group(1)
    named = [os.environ.get("GO", "go"), "go", cache_folder() / "go" / "bin" / "go"]
    candidates = [shutil.which(go) for go in named]
    found = {}
    for go in filter(None, candidates):
        # Asked outside of any module, so that Go tells its own version and fetches no other.
        environment = os.environ | {"GOTOOLCHAIN": "local"}
        done = subprocess.run(
            [go, "env", "GOVERSION"], cwd="/", env=environment, capture_output=True, text=True, check=False
        )
        found[go] = done.stdout.strip().removeprefix("go")
        if numbers(found[go]) >= numbers(wanted):
            return go
    seen = ", ".join(f"{go} is {version or 'broken'}" for go, version in found.items()) or "there is none"
    reason = f"the official CSI descriptor needs Go >= {wanted} ({seen}); set GO or PATH"
    if "unit" in os.environ.get("KATACSI_REQUIRE", ""):
        pytest.fail(reason)
    pytest.skip(reason)


def numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version.split(" ")[0]))
