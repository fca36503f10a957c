import json

import pytest
import torch
from PIL import Image

from mae.masks.masking import Masking
from pipelines.demo import demo
from pipelines.demo.salient_ratio import replace_ratio
from pipelines.errors import UserError

PICTURES = ("contact-sheet.png", "maps.png", "accuracy.png", "loss.png")


@pytest.fixture
def small(monkeypatch):
    """The demo's whole path at a size of seconds; its real size is what ``make demo`` runs."""
    monkeypatch.setattr(demo, "TRAINED_ON", "shapes:24")
    monkeypatch.setattr(demo, "JUDGED_ON", "shapes:12,split=test,objects=2-3")
    monkeypatch.setattr(demo, "PROBED_ON", "shapes:60,split=probe,objects=1")
    monkeypatch.setattr(demo, "TESTED_ON", "shapes:30,split=test,objects=1")
    monkeypatch.setitem(demo.TRAINING, "batch_size", 8)
    monkeypatch.setitem(demo.TRAINING, "epochs", 2)
    monkeypatch.setitem(demo.TRAINING, "workers", 0)


def test_the_demo_makes_everything_and_is_not_made_twice(small, tmp_path):
    result = demo.run_demo(tmp_path / "demo", quiet=True)
    assert [row["encoder"] for row in result.evaluation["rows"]] == ["salient", "random", "untrained"]
    assert result.map_scores.judged == 12
    table = (tmp_path / "demo" / "table.md").read_text()
    assert all(f"| {name} |" in table for name in ("salient", "random", "untrained"))
    assert json.loads((tmp_path / "demo" / "evaluation.json").read_text())["rows"] == result.evaluation["rows"]
    for name in PICTURES:
        with Image.open(tmp_path / "demo" / name) as picture:
            assert min(picture.size) > 300
    with Image.open(tmp_path / "demo" / "salient-ratio.gif") as moving:
        assert (moving.n_frames, moving.size) == (16, (478, 500))  # 0, 0.05, …, 0.75
    assert (tmp_path / "demo" / "salient" / "report.html").exists()
    masks = {
        name: json.loads((tmp_path / "demo" / name / "config.json").read_text())["masking"]
        for name in ("random", "salient")
    }
    assert {name: mask["strategy"] for name, mask in masks.items()} == {"random": "random", "salient": "salient"}
    assert masks["salient"]["salient_ratio"] == 0.25
    shown = demo.demo_sheet(tmp_path / "demo")
    assert list(shown) == [
        *("image", "caption", "map", "salient mask", "filled in, salient", "random mask", "filled in, random"),
    ]
    assert all(len(column) == 8 for column in shown.values())

    losses = (tmp_path / "demo" / "salient" / "metrics.jsonl").read_text()
    again = demo.run_demo(tmp_path / "demo", quiet=True)
    assert (tmp_path / "demo" / "salient" / "metrics.jsonl").read_text() == losses
    assert again.evaluation["rows"] == result.evaluation["rows"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no demo"):
        demo.run_demo(tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_ratio_counts_all_patches_and_takes_the_most_salient():
    saliency = torch.rand(3, 36, generator=torch.Generator().manual_seed(0))
    usual = Masking("salient", salient_of="salient", salient_pick="weighted")
    order = saliency.argsort(dim=1, descending=True)
    for ratio, most in ((0.0, 0), (0.25, 9), (0.75, 27)):
        mask = replace_ratio(usual, ratio)(3, (6, 6), generator=torch.Generator().manual_seed(1), saliency=saliency)
        assert (mask.hidden.sum(1) == 27).all()
        assert mask.hidden.gather(1, order[:, :most]).all()
