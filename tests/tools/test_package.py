"""What `make package` refuses of a wheel, and that the version is one."""

import re
import zipfile
from pathlib import Path

import pytest
import yaml

from saliency import __version__
from tools.package import NEEDED, all_required, check_contents, link_required

ROOT = Path(__file__).parents[2]


def wheel(folder, names):
    with zipfile.ZipFile(folder / "x.whl", "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return folder / "x.whl"


def test_a_wheel_has_what_is_needed_and_nothing_of_others(tmp_path):
    check_contents(wheel(tmp_path, [*NEEDED, "saliency_mae-1.dist-info/RECORD"]))
    for names in ([*NEEDED, "tests/test_x.py"], sorted(NEEDED)[1:]):
        with pytest.raises(SystemExit, match=r"x\.whl: strange"):
            check_contents(wheel(tmp_path, names))


def test_what_the_wheel_requires_is_linked_and_nothing_else(tmp_path):
    required = all_required("saliency-mae")
    assert {"torch", "open-clip-torch", "fsspec", "markupsafe"} <= required  # the last two through others
    assert not required & {"pytest", "ruff", "ray", "onnx", "playwright"}
    (tmp_path / "six.py").write_text("here already")
    link_required("saliency-mae", tmp_path)
    assert (tmp_path / "torch" / "__init__.py").is_file()
    assert (tmp_path / "torch").is_symlink()
    assert list(tmp_path.glob("torch-*.dist-info/METADATA"))
    assert not (tmp_path / "pytest").exists()
    assert (tmp_path / "six.py").read_text() == "here already"


def test_the_version_is_that_of_the_citation():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), re.M)


def test_forms_and_workflows_are_yaml():
    files = [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) > 3
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict)
