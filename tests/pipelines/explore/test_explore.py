"""What ``explore`` is given is recognised, and it tells who can see it."""

import json
import shutil
import socket
import sys

import pytest

from pipelines.errors import UserError
from pipelines.explore.explore import PASSWORD, address, explore, listen
from pipelines.explore.opened import open_all
from pipelines.explore.options import ExploreOptions
from tests.pipelines.explore.conftest import SOURCE
from tests.pipelines.pretraining import SMALL, invoke


def options(*what, **given):
    return ExploreOptions(tuple(map(str, what)), device="cpu", **given)


@pytest.fixture
def run(tmp_path, nano, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("pretrain", SOURCE, "--out", "runs/random/seed-0", *SMALL, "--quiet").exit_code == 0
    return tmp_path / "runs" / "random" / "seed-0"


def test_a_run_a_comparison_and_a_checkpoint(run, tmp_path):
    """A run brings its source, its report and its model; a comparison the first run of each arm."""
    found = open_all(options(run))
    assert (list(found.models), list(found.reports)) == (["random/seed-0"], ["random/seed-0"])
    assert found.source.name == SOURCE
    assert len(found.pairs) == 12
    (tmp_path / "results.json").write_text(json.dumps({}))
    found = open_all(options(tmp_path))
    assert list(found.models) == ["random/seed-0"]
    assert next(iter(found.reports)).endswith(tmp_path.name)
    step = next((run / "checkpoints").glob("step-*"))
    found = open_all(options(run, step, "shapes:5"))
    assert list(found.models) == ["random/seed-0", f"checkpoints/{step.name}"]
    assert len(found.pairs) == 5  # a source that is given comes first


def test_reports_are_served(run):
    from starlette.testclient import TestClient

    from pipelines.explore.app import app_of

    client = TestClient(app_of(open_all(options(run))), base_url="http://127.0.0.1")
    page = client.get("/report", params={"name": "random/seed-0"})
    assert page.headers["content-type"].startswith("text/html")
    assert "The course of the training" in page.text
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_tables_of_the_same_pairs_stand_side_by_side(places):
    found = open_all(options(*places))
    assert [table.grid for table in found.tables.values()] == [4, 28]
    assert found.source.has_masks
    assert found.find_image(3) == 3
    first, second = found.tables
    assert (found.row_of(3, first), found.row_of(3, second), found.row_of(11, second)) == (3, 3, None)


def test_a_folder_of_results_and_maps_that_are_given_twice(places, run, tmp_path):
    shutil.copytree(places[0], tmp_path / "all" / "maps")
    shutil.copytree(run, tmp_path / "all" / "run")
    (tmp_path / "all" / "picture.png").touch()
    found = open_all(options(tmp_path / "all", tmp_path / "all" / "maps"))
    assert len(found.tables) == 1
    assert list(found.models) == ["all/run"]


def test_mistakes(places, tmp_path):
    with pytest.raises(UserError, match="a source of images already"):
        open_all(options("shapes:3", "shapes:4"))
    with pytest.raises(UserError, match="give a source of images as well"):
        open_all(options(places[2]))
    with pytest.raises(UserError, match=r"does not exist|no such"):
        open_all(options(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="say what to explore"):
        options()
    with pytest.raises(ValueError, match="at most 65535"):
        options("shapes:3", port=65536)


def test_an_address_that_others_reach_needs_a_password(monkeypatch):
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(UserError, match="can be reached from other machines"):
        explore(options("shapes:3", host="0.0.0.0"))
    done = invoke("explore", "shapes:3", "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_who_can_see_it_is_told():
    here, there = options("shapes:3"), options("shapes:3", host="0.0.0.0")
    assert address(here, 7860, False) == (
        "open http://127.0.0.1:7860 in a browser (only this machine can reach it); Ctrl-C ends it"
    )
    assert "a password is asked for" in address(there, 1, True)
    assert "everyone" in address(there, 1, False)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="--port 0 takes a free port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_without_its_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pipelines.explore.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"explore needs uvicorn: pip install 'saliency-mae\[explore\]'"):
        explore(options("shapes:3"))
