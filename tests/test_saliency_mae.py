"""The Python face: lazy, curated, wary of strangers; the README's, the guide's and the docstrings' examples run."""

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saliency_mae as sm
from pipelines.sources.open_source import open_source
from tests.test_imports import HEAVY

ROOT = Path(__file__).parents[1]
PACKAGES = ("saliency", "mae", "pipelines", "cli")


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A folder to work in, with a built-in scene under the names that the examples use."""
    monkeypatch.chdir(tmp_path)
    picture = open_source("shapes:1").read_image(0)
    for name in ("scene.jpg", "photo.jpg"):
        Path(name).write_bytes(picture)
    return tmp_path


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def run_examples(text, names, name):
    """Runs a text's examples, which leave in ``names`` what they define; (how many there were, how many failed)."""
    test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    found = doctest.DocTestRunner(verbose=False).run(test, clear_globs=False)
    names |= test.globs
    return found.attempted, found.failed


def python(code, *, path=(ROOT,), cwd=None, **environment):
    known = {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(code if isinstance(code, list) else ["-c", code])]
    return subprocess.run(
        command, env=os.environ | known | environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_importing_loads_nothing(tmp_path):
    done = python("import sys, saliency_mae as sm; sm.__all__, dir(sm); print(*sys.modules)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "saliency_mae" in loaded
    assert not loaded & (HEAVY | {"typer", "rich", "click", *PACKAGES})


def test_every_name_is_where_the_imports_for_type_checkers_say():
    tree = ast.parse((ROOT / "saliency_mae.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    told = {each.module: tuple(alias.name for alias in each.names) for each in checked.body}
    assert told == sm._ROOMS
    assert sorted(name for names in told.values() for name in names) == sorted(sm.__all__)
    for room, names in told.items():
        for name in names:
            assert getattr(sm, name) is getattr(importlib.import_module(room), name)
    assert set(sm.__all__) <= set(dir(sm))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'heatmaps'"):
        sm.heatmaps  # noqa: B018


@pytest.mark.parametrize("name", [name for name in sm.__all__ if name != "__version__"])
def test_every_name_is_documented(name):
    assert getattr(sm, name).__doc__
    if name[0].islower():
        assert "UserError" in getattr(sm, name).__doc__
        assert ">>>" in getattr(sm, name).__doc__


def test_the_readmes_lines_run(scene):
    (code,) = blocks("README.md")
    assert len(code.splitlines()) <= 20
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["features"].shape == (2, 96)
    assert names["heat"].map.shape == (12, 12)
    assert {"overlay.png", "filled.png", "scene-maps", "scene-run"} <= {path.name for path in scene.iterdir()}


def test_the_guides_examples_run(scene):
    examples, failed = run_examples("\n".join(blocks("docs/guide/python.md")), {}, "docs/guide/python.md")
    assert examples > 20
    assert not failed


def test_the_docstrings_examples_run(scene):
    names = {"sm": sm, "torch": torch}
    order = ("load_clip", "heatmap", "overlay", "build_saliency", "open_maps", "verify", "publish", "mask")
    for name in (*order, "import_maps", "export_maps", "pretrain", "evaluate", "compare", "load"):
        examples, failed = run_examples(getattr(sm, name).__doc__, names, name)
        assert examples > 0, name
        assert failed == 0, name


def test_the_command_line_starts_here(tmp_path):
    done = python(["-m", "saliency_mae", "--help"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "build-saliency" in done.stdout
    wrong = python(["-m", "saliency_mae", "verify", "nothing-here"], cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: nothing-here does not exist")


@pytest.fixture
def stranger(tmp_path):
    """A distribution of another's that installs a package called ``saliency``."""
    package = tmp_path / "elsewhere" / "saliency"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('a stranger was imported')\n")
    facts = tmp_path / "elsewhere" / "pair_saliency-0.2.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pair-saliency\nVersion: 0.2.1\n")
    (facts / "top_level.txt").write_text("saliency\n")
    (facts / "RECORD").write_text("saliency/__init__.py,,\n")
    return tmp_path / "elsewhere"


def test_a_stranger_is_introduced(stranger, tmp_path):
    path = (stranger, ROOT)
    for code in (["-m", "saliency_mae", "--help"], "import saliency_mae; saliency_mae.main()"):
        done = python(code, path=path, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: the package 'saliency' that Python finds is not saliency-mae's: it lies at ")
        assert str(stranger / "saliency" / "__init__.py") in line
        assert "the distribution 'pair-saliency'" in line
        assert "pip uninstall pair-saliency" in line
    done = python("import saliency_mae as sm; sm.heatmap", path=path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: the package 'saliency' that Python finds is not")
    assert python("import saliency_mae", path=path, cwd=tmp_path).returncode == 0


def test_a_file_of_ones_own_is_a_stranger_too(tmp_path):
    (tmp_path / "cli.py").write_text("raise AssertionError('a stranger was imported')\n")
    done = python(["-m", "saliency_mae", "--help"], cwd=tmp_path)
    assert done.returncode == 2
    assert f"it lies at {tmp_path / 'cli.py'}; rename it" in done.stderr


def test_a_stranger_that_was_imported_before_is_noticed(stranger, tmp_path):
    (stranger / "saliency" / "__init__.py").write_text("")
    code = "import sys, saliency; sys.path.remove(sys.argv[1]); import saliency_mae as sm; sm.UserError"
    done = python(["-c", code, str(stranger)], path=(stranger, ROOT), cwd=tmp_path)
    assert "ImportError: the package 'saliency'" in done.stderr


def test_a_stranger_that_was_installed_over_ours_is_noticed(stranger, tmp_path):
    """As pip does it: both distributions write into one folder."""
    site = tmp_path / "site"
    for name in ("saliency", "mae", "pipelines"):
        (site / name).mkdir(parents=True)
        shutil.copy(ROOT / name / "__init__.py", site / name)
    for name in ("cli.py", "saliency_mae.py"):
        shutil.copy(ROOT / name, site)
    record = site / "saliency_mae-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: saliency-mae\nVersion: 0.1.0\n")
    (record / "top_level.txt").write_text("cli\nmae\npipelines\nsaliency\nsaliency_mae\n")
    lines = [f"{name}/__init__.py,sha256={_digest(site / name / '__init__.py')},1" for name in PACKAGES[:3]]
    (record / "RECORD").write_text("\n".join([*lines, f"cli.py,sha256={_digest(site / 'cli.py')},1"]) + "\n")
    ask = "import saliency_mae; print(saliency_mae._stranger())"
    assert python(ask, path=(site,), cwd=tmp_path).stdout == "None\n"

    shutil.copy(stranger / "saliency" / "__init__.py", site / "saliency" / "__init__.py")
    patched = python(ask, path=(site,), cwd=tmp_path)
    assert patched.stdout == "None\n", "a file that was changed by hand is no stranger"
    shutil.copytree(stranger / "pair_saliency-0.2.1.dist-info", site / "pair_saliency-0.2.1.dist-info")
    found = python(ask, path=(site,), cwd=tmp_path)
    assert (
        f"it lies at {site / 'saliency' / '__init__.py'} and came with the distribution 'pair-saliency'" in found.stdout
    )


def _digest(file):
    import base64
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")


def test_a_broken_installation_says_so(tmp_path):
    shutil.copy(ROOT / "saliency_mae.py", tmp_path)
    done = python(["-S", "-m", "saliency_mae"], path=(), cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 2
    assert "saliency-mae is not whole: there is no 'saliency'" in done.stderr
