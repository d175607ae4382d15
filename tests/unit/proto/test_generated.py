"""src/katacsi/_gen is what tools/generate.py makes of csi.proto, and it has all five services."""

import importlib
import shutil
import subprocess
import sys

import grpclib.const
import pytest

import katacsi._gen.csi.v1 as csi
import katacsi._gen.google.protobuf as google

pytestmark = pytest.mark.unit

SERVICES = ("Controller", "GroupController", "Identity", "Node", "SnapshotMetadata")


def check(tree):
    command = [sys.executable, "tools/generate.py", "--check"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(root, tmp_path):
    """A copy of all that the generator reads and writes."""
    for folder in ("proto", "tools", "src/katacsi/_gen"):
        shutil.copytree(root / folder, tmp_path / folder)
    return tmp_path


def test_committed_code_is_up_to_date(root):
    """What is in the tree is what the pinned tools make."""
    done = check(root)
    assert done.returncode == 0, done.stderr


def change_a_byte(generated):
    path = generated / "csi" / "v1" / "__init__.py"
    path.write_text(path.read_text().replace("TYPE_INT64", "TYPE_INT32", 1))
    return "csi/v1/__init__.py: differs from line"


def remove_a_file(generated):
    (generated / "secrets.py").unlink()
    return "secrets.py: missing"


def add_a_file(generated):
    (generated / "notes.py").touch()
    return "notes.py: not generated, remove it"


@pytest.mark.parametrize(
    "tamper", [change_a_byte, remove_a_file, add_a_file], ids=lambda tamper: tamper.__name__
)
def test_check_names_what_was_changed_by_hand(copy, tamper):
    """A changed, missing or added file makes --check fail with its name and the remedy."""
    expected = tamper(copy / "src" / "katacsi" / "_gen")
    done = check(copy)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "tools/generate.py" in done.stderr


def test_generating_repairs_and_repeats(copy, root):
    """Generating over a damaged folder gives the committed bytes, wherever the tree lies."""
    generated = copy / "src" / "katacsi" / "_gen"
    change_a_byte(generated)
    add_a_file(generated)
    subprocess.run([sys.executable, "tools/generate.py"], cwd=copy, check=True)
    assert files(generated) == files(root / "src" / "katacsi" / "_gen")


def test_a_broken_proto_is_told_and_changes_nothing(copy):
    """A proto that protoc refuses leaves the generated code as it was."""
    proto = copy / "proto" / "csi.proto"
    proto.write_text(proto.read_text() + "message {")
    before = files(copy / "src" / "katacsi" / "_gen")
    command = [sys.executable, "tools/generate.py"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "csi.proto" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(copy / "src" / "katacsi" / "_gen") == before


def test_there_are_five_services(csi_file):
    """CSI has no other service, so a driver that registers these five answers every method."""
    assert sorted(csi_file.services_by_name) == list(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_base_class_answers_every_method_of_its_service(csi_file, name):
    """Path, types and streaming of every method are those of the proto."""
    base = getattr(csi, f"{name}Base")
    assert {
        path: (handler.cardinality, handler.request_type.__name__, handler.reply_type.__name__)
        for path, handler in base().__mapping__().items()
    } == {
        f"/csi.v1.{name}/{method.name}": (
            cardinality(method),
            method.input_type.name,
            method.output_type.name,
        )
        for method in csi_file.services_by_name[name].methods
    }


@pytest.mark.parametrize("name", SERVICES)
def test_client_has_the_methods_of_the_base_class(name):
    """The client used by the demo and the tests reaches all that the server offers."""
    base, stub = (public(getattr(csi, name + kind)) for kind in ("Base", "Stub"))
    assert base
    assert base == stub


def public(cls):
    return {name for name in vars(cls) if not name.startswith("_")}


def cardinality(method):
    return grpclib.const.Cardinality((method.client_streaming, method.server_streaming))


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_google_is_cut_down_to_what_csi_uses():
    """The generated google.protobuf has the few classes that CSI names, and reading it loads no dateutil."""
    program = "import sys, katacsi._gen.csi.v1; print('dateutil' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert google.__all__ == ("BoolValue", "Int64Value", "Timestamp")
    assert {name for name in google.__all__ if hasattr(google, name)} == set(google.__all__)


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:01Z", 1, 0),
        ("2017-01-15T01:30:15.01Z", 1484443815, 10_000_000),
        ("2017-01-15T02:30:15.123456+01:00", 1484443815, 123_456_000),
    ],
)
def test_times_of_json_are_read(text, seconds, nanos):
    """RFC 3339 times, as JSON has them, are read without dateutil."""
    read = google.Timestamp.from_dict(text)
    assert (read.seconds, read.nanos) == (seconds, nanos)


@pytest.mark.parametrize(
    ("csi_text", "google_text", "complaint"),
    [
        ("x = __google__protobuf__.Any", "class Timestamp: pass", "google.protobuf has no Any"),
        (
            "x = __google__protobuf__.A",
            "import dateutil.parser\nclass A:\n  x = dateutil.parser.parse",
            "dateutil",
        ),
    ],
)
def test_what_the_trimming_does_not_know_is_told(tmp_path, csi_text, google_text, complaint):
    """Another compiler's output stops the generation, rather than being cut wrongly."""
    for name, text in (("csi/v1", csi_text), ("google/protobuf", google_text)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(text)
    trim_generated = importlib.import_module("trim_generated")
    with pytest.raises(trim_generated.TrimError, match=complaint):
        trim_generated.trim_google(tmp_path)


def test_what_is_needed_by_what_is_used_stays(tmp_path):
    """A class that a used one names is kept, its texts and all others go."""
    (tmp_path / "csi" / "v1").mkdir(parents=True)
    (tmp_path / "csi" / "v1" / "__init__.py").write_text("x = __google__protobuf__.A")
    module = tmp_path / "google" / "protobuf" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        'import os\nimport sys\n__all__ = ("A", "B", "C")\nclass C: pass\n'
        'class B:\n  "text"\n  b = sys\nclass A:\n  a = B\npool.register_message("p", "C", C)\n'
    )
    importlib.import_module("trim_generated").trim_google(tmp_path)
    left = module.read_text()
    assert "class A" in left
    assert "class B" in left
    assert "import sys" in left
    assert not any(gone in left for gone in ("class C", '"C"', "import os", "text"))
