"""No file of the project unpickles anything but weights, for a pickle can run whatever its maker liked."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    ROOT / "cli.py",
    *(path for room in ("pipelines", "saliency", "mae", "benchmarks", "tools") for path in (ROOT / room).rglob("*.py")),
]
LOADERS = {"torch.load", "load_state_dict_from_url", "timm.models.load_state_dict"}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(code):
    """The lines of a source text that may unpickle more than weights."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import) and {alias.name.split(".")[0] for alias in node.names} & UNPICKLERS:
            yield node.lineno
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module or "").split(".")[0] in UNPICKLERS or (node.module == "torch" and "load" in names):
                yield node.lineno
        elif isinstance(node, ast.Call):
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            called = ast.unparse(node.func)
            if called in LOADERS and given.get("weights_only") is not True:
                yield node.lineno
            if given.get("weights_only", True) is not True or given.get("allow_pickle", False) is not False:
                yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_more_than_weights(path):
    assert list(unsafe(path.read_text())) == [], path


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("torch.load(f, weights_only=True)", False),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, weights_only=some)", True),
        ("from torch import load", True),
        ("from torch import nn", False),
        ("import pickle", True),
        ("from pickle import loads", True),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f)", False),
        ("timm.models.load_state_dict(f)", True),
        ("open_clip.create_model(n, weights_only=False)", True),
    ],
)
def test_what_is_looked_for_is_found(code, found):
    assert bool(list(unsafe(code))) == found


def test_the_tree_has_loaders_to_look_at():
    assert len(FILES) > 40
    assert any("torch.load(" in path.read_text() for path in FILES)
