"""What `make package` refuses of a wheel, and that the version is one."""

import re
import zipfile
from pathlib import Path

import pytest
import yaml

from saliency import __version__
from tools.package import NEEDED, check_contents

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


def test_the_version_is_that_of_the_citation():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), re.M)


def test_forms_and_workflows_are_yaml():
    files = [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) > 3
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text()), dict)
