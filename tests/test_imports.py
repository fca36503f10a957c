"""The import rule: saliency_mae → cli → pipelines → {saliency, mae}, one way between rooms; tests mirror the rooms."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "saliency_mae": {"cli", "pipelines", "saliency"},
    "cli": {"pipelines"},
    "pipelines": {"pipelines", "saliency", "mae"},
    "saliency": {"saliency"},
    "mae": {"mae"},
}
HEAVY = {
    *("torch", "torchvision", "open_clip", "timm", "datasets", "huggingface_hub", "pyarrow", "numpy", "PIL"),
    *("safetensors", "scipy", "matplotlib", "tqdm", "yaml", "ray", "wandb"),
}
MODULES_OF_ONE_FILE = ("saliency_mae.py", "cli.py")
FILES = [
    *(ROOT / name for name in MODULES_OF_ONE_FILE),
    *(path for room in ("pipelines", "saliency", "mae") for path in (ROOT / room).rglob("*.py")),
]


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imported(path):
    """The modules of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & set(MODULES) or {node.module or ""}


def room_of(module):
    """The folder of a package that a module is in; what lies in a folder of a room belongs to the room."""
    package, *inner = MODULES[module].relative_to(ROOT).parts[:-1] or (module,)
    return f"{package}/{inner[0]}" if inner else package


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_one_way(path):
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name.split(".")[0] for name in imported(path)} & {*ALLOWED, "tests", "tools", "benchmarks"}
    assert ours <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {sorted(ours - ALLOWED[package])}"


def test_every_package_is_watched():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == {*MODULES_OF_ONE_FILE, "pipelines", "saliency", "mae"}
    assert len(FILES) > 20


def test_files_and_rooms_import_one_way():
    files = {module: {name for name in imported(path) if name in MODULES} for module, path in MODULES.items()}
    rooms = {room_of(module): set() for module in MODULES}
    for module, names in files.items():
        rooms[room_of(module)] |= {room_of(name) for name in names} - {room_of(module)}
    list(graphlib.TopologicalSorter(files).static_order())  # CycleError names the circle
    list(graphlib.TopologicalSorter(rooms).static_order())
    for package in ("pipelines", "saliency", "mae"):
        above = {room for room in rooms[package] if room.startswith(f"{package}/")}
        assert not above, f"files at the root of {package} import the rooms {sorted(above)}"


def test_every_room_says_what_it_is():
    for folder in {path.parent for path in FILES} - {ROOT}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_tests_mirror_the_rooms():
    rooms = {str(path.parent.relative_to(ROOT)) for path in FILES} - {"."}
    tested = {str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert tested == rooms | {".", "reference", "tools"}


def test_help_imports_nothing_heavy():
    """The help of no command does, nor what a shell completes."""
    code = (
        "import sys, cli, typer.main\n"
        "for name in typer.main.get_command(cli.app).commands:\n"
        "    cli.app([name, '--help'], standalone_mode=False)\n"
        "    print(name, *sys.modules, file=sys.stderr)\n"
        "cli.app(['--help'], standalone_mode=False)\n"
        "print('mae-cli', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"COLUMNS": "120"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stderr.decode().splitlines()]
    assert [name for name, *_ in lines][-3:] == ["demo", "config", "mae-cli"]
    for name, *loaded in lines:
        assert "pipelines.pretrain.options" in loaded
        assert not set(loaded) & HEAVY, f"{name}: {sorted(set(loaded) & HEAVY)}"


def test_commands_that_only_read_maps_start_without_torch():
    """It takes seconds and most of a gigabyte."""
    commands = ("build.merge", "verify.verify", "publish.publish", "inspect.inspect", "diff.diff")
    code = f"import sys\nfor name in {commands}: __import__('pipelines.' + name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_two_test_files_share_a_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest collects files of folders without __init__.py by their names alone"
