"""The cycle collector during imports."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

import pytest

from components.cluster.imports import imports


def test_the_collector_waits_and_then_passes_over_what_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "heavy_for_a_test.py").write_text("import gc\ncollector = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()
    with imports():
        heavy = importlib.import_module("heavy_for_a_test")
    assert not heavy.collector
    assert gc.isenabled()
    assert gc.get_freeze_count()
    gc.unfreeze()
    with imports():
        importlib.import_module("heavy_for_a_test")
    assert not gc.get_freeze_count(), "nothing was imported"
    del sys.modules["heavy_for_a_test"]


def test_a_failed_import_leaves_the_collector_as_it_was():
    gc.disable()
    try:
        with pytest.raises(ImportError), imports():
            importlib.import_module("no_such_module_for_a_test")
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(ImportError), imports():
        importlib.import_module("no_such_module_for_a_test")
    assert gc.isenabled()
