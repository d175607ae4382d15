"""Hollow modules: there while a library is imported, and gone afterwards."""

from __future__ import annotations

import importlib
import sys

import pytest

from katacsi.standins import module, package, standing_in


def test_a_stand_in_is_there_for_an_import_and_gone_afterwards():
    """Whoever imports the name later gets the real module, or the error that there is none."""
    with standing_in([module("katacsi_hollow", "Server")]):
        hollow = importlib.import_module("katacsi_hollow")
        assert isinstance(type("Mine", (hollow.Server,), {})(), hollow.Server)
    assert "katacsi_hollow" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("katacsi_hollow")


def test_a_module_that_is_in_use_is_left_alone():
    """What somebody imported before stays what it is."""
    import http.server

    with standing_in([module("http.server", "BaseHTTPRequestHandler")]):
        assert sys.modules["http.server"] is http.server
    assert sys.modules["http.server"] is http.server


def test_stand_ins_go_also_when_the_import_fails():
    """A library that cannot be imported leaves no hollow module behind."""
    with pytest.raises(RuntimeError), standing_in([module("katacsi_hollow")]):
        raise RuntimeError
    assert "katacsi_hollow" not in sys.modules


def test_modules_of_a_package_are_found_without_its_own_code(tmp_path, monkeypatch):
    """A part of a library is imported, and not the whole that its package would bring."""
    (tmp_path / "__init__.py").write_text("raise RuntimeError('the whole library')")
    (tmp_path / "part.py").write_text("VALUE = 7")
    with standing_in([package("katacsi_whole", str(tmp_path))]):
        part = importlib.import_module("katacsi_whole.part")
    monkeypatch.delitem(sys.modules, "katacsi_whole.part")
    assert part.VALUE == 7
    assert "katacsi_whole" not in sys.modules


def test_a_node_process_carries_no_web_server_of_the_metrics_library():
    """What prometheus_client would serve pages with is in no node's memory; its metrics work."""
    import subprocess

    program = (
        "import sys; from katacsi.metrics import Metrics; from katacsi.metrics_page import choose_encoder; "
        "metrics = Metrics.create('1'); page = choose_encoder('')[0](metrics.registry); "
        "assert b'katacsi_build_info' in page; "
        "print([m for m in ('http.server', 'html', 'wsgiref.simple_server') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
