"""What `pretrain` says at its start of what its masks hide."""

import json

import numpy as np
import pytest

from mae.masks.masking import Masking
from pipelines.pretrain.hidden_shares import HiddenShares, hidden_shares
from pipelines.sources.open_source import open_source
from pipelines.views.joined_maps import join_maps
from saliency.table.table import SaliencyTable
from tests.pipelines.pretraining import SMALL, invoke
from tests.tiny_mae import write_maps

pytestmark = pytest.mark.usefixtures("nano")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Maps that are equal in the left half of each of 300 pictures, and empty in the right one."""
    source = open_source("shapes:300,size=32")
    maps = np.zeros((300, 8, 8), np.float32)
    maps[:, :, :4] = 1
    folder = write_maps(tmp_path_factory.mktemp("maps"), source, maps=maps)
    return folder, join_maps(folder, source, on_missing="error")


def test_random_masks_hide_the_mask_ratio_of_it(planted):
    found = hidden_shares(Masking("salient", salient_ratio=0.0), planted[1], (8, 8), 0)
    assert found.mass == pytest.approx(0.75, abs=0.02)
    assert found.salient == pytest.approx(0.75, abs=0.02)
    assert found.by_chance == 0.75


def test_all_that_is_salient_can_be_hidden_and_a_cap_prevents_it(planted):
    """Of views that show salient patches alone, no mask can hide more than the mask ratio."""
    hide = Masking("salient", salient_ratio=1.0, salient_of="mask", salient_mass=1.0)
    found = hidden_shares(hide, planted[1], (8, 8), 0)
    assert found.mass > 0.95
    assert found.warnings()[0].startswith("the masks hide more than 90% of what is salient")
    capped = Masking("salient", salient_ratio=1.0, salient_of="mask", salient_mass=1.0, salient_cap=0.5)
    less = hidden_shares(capped, planted[1], (8, 8), 0)
    assert less.salient < 0.75
    assert not less.warnings()


def test_maps_that_show_nothing(tmp_path):
    source = open_source("shapes:4,size=32")
    folder = write_maps(tmp_path, source, maps=np.zeros((4, 4, 4), np.float32))
    assert hidden_shares(Masking("salient"), join_maps(folder, source, on_missing="error"), (4, 4), 0) is None


def test_the_command_says_it(planted, tmp_path):
    words = ("pretrain", "shapes:300,size=32", "--saliency", planted[0], *SMALL, "--limit", 8)
    done = invoke(*words, "--salient-of", "mask", "--salient-ratio", 1.0, "--patch-size", 4, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "the masks hide " in done.stderr
    assert "warning: the masks hide more than 90% of what is salient" in done.stderr
    done = invoke(*words, "--masking", "random", "--on-missing", "random", "--out", tmp_path / "other")
    assert "the masks hide" not in done.stderr


def test_maps_whose_image_sizes_are_not_known_are_trained_with(planted, tmp_path, monkeypatch):
    def unknown(_):
        raise ValueError("a width is not positive")

    monkeypatch.setattr(SaliencyTable, "image_sizes", unknown)
    words = ("pretrain", "shapes:300,size=32", "--saliency", planted[0], *SMALL, "--limit", 8)
    done = invoke(*words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "warning: what the masks hide of the maps is not known: a width is not positive" in done.stderr


def test_a_run_of_before_the_cap_says_what_its_reading_is_called_now(planted, tmp_path):
    words = (
        "pretrain",
        "shapes:300,size=32",
        "--saliency",
        planted[0],
        *SMALL,
        "--limit",
        8,
        "--out",
        tmp_path / "run",
    )
    assert invoke(*words, "--salient-of", "salient").exit_code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for name in ("options", "masking"):
        del config[name]["salient_cap"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    refused = invoke(*words, "--salient-of", "salient", "--resume")
    assert refused.exit_code == 2
    assert "salient_of 'salient-only' → 'salient'" in refused.stderr
    assert invoke(*words, "--salient-of", "salient-only", "--resume").exit_code == 0


def test_shares_in_words():
    line = HiddenShares(0.912, 0.971, 0.75).line()
    assert line.startswith("the masks hide 91% of the maps' saliency and 97% of the salient patches;")
