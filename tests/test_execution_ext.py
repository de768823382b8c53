"""The cache of executed pages belongs to one state of the package and the data, and to no other."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "book" / "_ext" / "execution.py"


@pytest.fixture
def execution():
    spec = importlib.util.spec_from_file_location("execution", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    for name in ("src/a.py", "src/sub/b.py", "data/results/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_digest_follows_names_and_contents(execution, tree):
    def now() -> str:
        return execution.digest([tree / "src", tree / "data"], tree)

    seen = [now()]
    (tree / "src/sub/b.py").write_text("changed")
    seen.append(now())
    (tree / "src/a.py").rename(tree / "src/z.py")
    seen.append(now())
    (tree / "data/results/c.json").unlink()
    seen.append(now())
    assert len(set(seen)) == len(seen)


def test_digest_ignores_dates_and_caches(execution, tree):
    before = execution.digest([tree / "src"], tree)
    os.utime(tree / "src/a.py", (0, 0))
    (tree / "src/__pycache__").mkdir()
    (tree / "src/__pycache__/a.pyc").write_bytes(b"compiled")
    assert execution.digest([tree / "src"], tree) == before


def test_a_changed_package_gets_another_cache_and_the_old_one_goes(execution, tree, monkeypatch):
    monkeypatch.setattr(execution, "ROOT", tree)
    monkeypatch.setattr(execution, "INPUTS", ("src", "data"))
    app, config = SimpleNamespace(outdir=tree / "_build" / "html"), SimpleNamespace()

    execution.choose_cache(app, config)
    first = Path(config.nb_execution_cache_path)
    first.mkdir(parents=True)
    execution.choose_cache(app, config)
    assert Path(config.nb_execution_cache_path) == first and first.is_dir()

    (tree / "src/a.py").write_text("an edited solver")
    execution.choose_cache(app, config)
    assert Path(config.nb_execution_cache_path) != first and not first.exists()
