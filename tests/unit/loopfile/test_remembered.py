"""What is remembered of records is never older than what was written."""

import os

from katacsi.backends.loopfile.remembered import LIMIT, Remembered


def test_a_record_is_remembered_for_as_long_as_its_file_stays(tmp_path):
    remembered, path = Remembered(), tmp_path / "volume.json"
    path.write_text("one")
    remembered.keep("a", remembered.look("a", path), "one")
    assert remembered.look("a", path).record == "one"
    path.write_text("another")
    assert remembered.look("a", path).record is None


def test_what_was_read_while_a_record_was_written_is_not_kept(tmp_path):
    """Also where the clock did not tick in between, so that nothing tells the two contents apart."""
    remembered, path = Remembered(), tmp_path / "volume.json"
    path.write_text("old")
    times = path.stat()
    look = remembered.look("a", path)
    read = path.read_text()
    path.write_text("new")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    remembered.forget("a")
    remembered.keep("a", look, read)
    assert "a" not in remembered


def test_what_was_kept_before_a_write_ended_is_forgotten_by_it(tmp_path):
    """A reader may come in before the writer says that it wrote."""
    remembered, path = Remembered(), tmp_path / "volume.json"
    path.write_text("old")
    remembered.keep("a", remembered.look("a", path), "old")
    remembered.forget("a")
    assert remembered.look("a", path).record is None


def test_what_is_not_there_is_not_kept(tmp_path):
    remembered = Remembered()
    look = remembered.look("a", tmp_path / "volume.json")
    remembered.keep("a", look, "something")
    assert "a" not in remembered


def test_not_all_are_remembered(tmp_path):
    remembered, path = Remembered(), tmp_path / "volume.json"
    path.write_text("one")
    for number in range(LIMIT + 5):
        name = f"pvc-{number}"
        remembered.keep(name, remembered.look(name, path), "one")
    assert len(remembered) == LIMIT
    assert "pvc-0" not in remembered
    assert name in remembered
