"""The import rule: cli → pipelines → {saliency, mae}, and nothing the other way or between the last two."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "cli": {"pipelines"},
    "pipelines": {"pipelines", "saliency", "mae"},
    "saliency": {"saliency"},
    "mae": {"mae"},
}
HEAVY = {
    *("torch", "torchvision", "open_clip", "timm", "datasets", "huggingface_hub", "pyarrow", "numpy", "PIL"),
    *("safetensors", "matplotlib", "tqdm", "yaml", "ray", "wandb"),
}
FILES = [ROOT / "cli.py", *(path for room in ("pipelines", "saliency", "mae") for path in (ROOT / room).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = set(imported(path)) & {*ALLOWED, "tests", "tools", "benchmarks"}
    assert ours <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {sorted(ours - ALLOWED[room])}"


def test_every_room_is_watched():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == {"cli.py", "pipelines", "saliency", "mae"}
    assert len(FILES) > 20


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    code = f"import sys, cli; cli.app({words}, standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.decode().split())
    assert "pipelines.pretrain.options" in loaded
    assert not loaded & HEAVY, f"{words}: {sorted(loaded & HEAVY)}"


def test_no_two_test_files_share_a_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest collects files of folders without __init__.py by their names alone"
