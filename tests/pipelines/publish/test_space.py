"""The Space of a published table: it is written whole, it runs, and it arrives on the Hub."""

import ast
import subprocess
import sys

import pytest
import yaml

from pipelines.errors import UserError
from pipelines.publish.options import PublishOptions
from pipelines.publish.publish import publish
from pipelines.publish.space import requirements


@pytest.fixture(scope="module")
def maps(tmp_path_factory, tiny_clip):
    import saliency_mae as sm

    folder = tmp_path_factory.mktemp("maps")
    return sm.build_saliency("shapes:4", folder / "maps", clip=tiny_clip, quiet=True).folder


def test_it_is_left_beside_the_dataset_and_runs_by_itself(maps, tmp_path):
    found = publish(PublishOptions(maps, "me/maps", dry_run=tmp_path / "look", space="me/app"), quiet=True)
    space = tmp_path / "look-space"
    assert found["space"] == f"{space} (nothing was uploaded)"
    card = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (card["sdk"], card["app_port"], card["datasets"]) == ("docker", 7860, ["me/maps"])
    command = (space / "Dockerfile").read_text().splitlines()[-1]
    words = ast.literal_eval(command.removeprefix("CMD "))
    assert words[3:5] == ["explore", "me/maps"]
    assert not list(space.rglob("__pycache__"))
    # its own copy of the code reads the command, and finds that there is no network
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=space,
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    assert "me/maps" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_it_needs_is_what_the_package_declares():
    needs = requirements()
    assert any(need.startswith("torch") for need in needs)
    assert any(need.startswith("starlette") for need in needs)
    assert not any("extra" in need or need.startswith(("ray", "pytest", "av")) for need in needs)


def test_mistakes(maps, tmp_path):
    (tmp_path / "look-space").mkdir()
    (tmp_path / "look-space" / "mine").touch()
    with pytest.raises(UserError, match="look-space is not empty"):
        publish(PublishOptions(maps, "me/maps", dry_run=tmp_path / "look", space="me/app"), quiet=True)
    assert not (tmp_path / "look").exists()
    with pytest.raises(UserError, match="'app' can't be"):
        publish(PublishOptions(maps, "me/maps", dry_run=tmp_path / "look", space="app"), quiet=True)
