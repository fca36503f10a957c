import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cli
from mae.masks.masking import Masking
from mae.training.checkpoints import save_checkpoint
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.protocols import occlusion
from pipelines.evaluate.protocols.occlusion_curves import area_under, occlusion_row
from pipelines.evaluate.results.outcome import Measured
from pipelines.sources.open_source import open_source
from tests.tiny_mae import nano, write_maps

SCENES, TEST = "shapes:48,size=32,objects=1", "shapes:20,split=test,size=32,objects=1"


def save_run(folder, seed=0, maps=None):
    torch.manual_seed(seed)
    save_checkpoint(folder, Training(nano(32), Masking(), TrainingSettings(), 1))
    metadata = {"clip": "none", "method": "other", "grid": 4}
    config = {"options": {"saliency": maps}, "maps": metadata if maps else None}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def base(tmp_path):
    return EvaluateOptions(
        save_run(tmp_path / "run", seed=5), SCENES, test=TEST, protocols=("occlusion",), occlusion_shares="0,0.5,0.9",
        recover_images=5, batch_size=8, workers=0,
    )  # fmt: skip


def judge(options):
    return evaluate(options, quiet=True)


def test_the_result(base, tmp_path):
    result = judge(base)
    assert result["occluders"] == {"grid": [4, 4], "fill": "grey", "salient_by": "true masks"}
    assert [row["encoder"] for row in result["rows"]] == [base.run, "untrained"]
    row = result["rows"][0]
    assert list(row["occlusion_curves"]) == ["random", "salient", "non-salient", "block", "object"]
    areas = []
    for curve in row["occlusion_curves"].values():
        accuracy = curve["accuracy"]
        assert accuracy[0] == row["occlusion_curves"]["random"]["accuracy"][0]  # nothing is hidden yet
        areas.append((0.5 * (accuracy[0] + accuracy[1]) * 0.5 + 0.5 * (accuracy[1] + accuracy[2]) * 0.4) / 0.9)
        assert curve["area"] == pytest.approx(areas[-1])
        assert curve["area_ends"][0] <= curve["area"] <= curve["area_ends"][1]
        recovery = curve["recovery"]
        assert recovery["images"] == 5
        assert recovery["model_psnr"][0] is None
        assert recovery["model_psnr"][1] < recovery["neighbours_psnr"][1]  # it has learned nothing
        assert -1 <= recovery["model_ssim"][2] <= 1
    assert row["occlusion"] == pytest.approx(np.mean(areas))
    assert "occlusion_minus_first" not in row
    assert result["rows"][1]["occlusion_minus_first"]["mean"]["area"] == pytest.approx(
        result["rows"][1]["occlusion"] - row["occlusion"]
    )
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == result
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {"occlusion.png", "occluded.png"}
    assert judge(base) == result


def test_what_is_finished_is_not_computed_again(base, monkeypatch):
    monkeypatch.setattr(occlusion, "draw_occlusion", lambda *_: None)
    result = judge(base)
    calls = []
    real = occlusion.Occlusion.measure
    monkeypatch.setattr(occlusion.Occlusion, "measure", lambda *a, **k: calls.append(a) or real(*a, **k))
    assert judge(base) == result
    assert not calls
    judge(replace(base, occluder_fill="noise"))
    assert len(calls) == 2
    judge(replace(base, occluder=("block",)))
    assert len(calls) == 4


def test_beside_another_protocol_and_an_encoder_of_another_size(base):
    result = judge(
        replace(base, protocols=("knn", "occlusion"), beside=("timm:test_vit@none",), occluder=("random", "block"))
    )
    rows = result["rows"]
    assert [list(row["occlusion_curves"]) for row in rows] == [["random", "block"]] * 3
    assert all("knn" in row for row in rows)
    assert "recovery" not in rows[1]["occlusion_curves"]["block"]
    assert result["occluders"]["grid"] == [4, 4]


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_a_probe_of_whole_images_is_the_protocol_of_its_name(base, probe):
    """With nothing hidden the accuracy is that of the protocol itself."""
    options = replace(
        base, protocols=("occlusion", probe), occlusion_probe=probe, occlusion_shares="0", recover_images=0
    )
    row = judge(options)["rows"][0]
    assert row["occlusion"] == pytest.approx(row[probe])


def test_several_seeds(base):
    row = judge(replace(base, seeds="2", occluder=("random",), recover_images=0))["rows"][1]
    assert row["occlusion_seed_interval"] > 0
    assert [run["seed"] for run in row["occlusion_runs"]] == [0, 1]


def test_maps_of_the_training_are_refused_before_anything_is_computed(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(SCENES))  # of the training images: that is said first
    run = save_run(tmp_path / "trained", maps=str(maps))
    given = [
        "evaluate", run, SCENES, "--test", TEST, "--protocol", "occlusion", "--occluder-maps", maps, "--workers", 0
    ]  # fmt: skip
    result = CliRunner().invoke(cli.app, [str(word) for word in given])
    assert result.exit_code == 2
    assert "was trained with these maps; occlude by independent ones" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "trained" / "evaluation.cells").exists()
    with pytest.raises(UserError, match="was trained with these maps"):
        judge(replace(base, beside=(run,), occluder_maps=str(maps)))


def test_other_maps_are_taken_and_named(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(TEST))
    result = judge(replace(base, occluder_maps=str(maps), occluder=("salient",), recover_images=0, occluder_grid=5))
    assert result["occluders"] == {"grid": [5, 5], "fill": "grey", "salient_by": str(maps)}


def test_what_can_not_be_is_said(base, tmp_path):
    with pytest.raises(ValueError, match="--occluder 'magic'"):
        replace(base, occluder=("magic",))
    for shares in ("0,1", "0.5,0.1", "a", "0.1,0.1"):
        with pytest.raises(ValueError, match="--occlusion-shares"):
            replace(base, occlusion_shares=shares)
    with pytest.raises(ValueError, match="--confusion draws"):
        replace(base, confusion=tmp_path / "x.png")


def test_the_area_of_a_line_is_its_mean():
    assert area_under(np.array([[1.0, 0.0], [0.2, 0.2]]), [0.0, 0.6]).tolist() == pytest.approx([0.5, 0.2])
    assert area_under(np.array([[0.7]]), [0.3]).tolist() == [0.7]
    uneven = area_under(np.array([[1.0, 0.5, 0.0]]), [0.0, 0.1, 0.9])
    assert uneven.tolist() == pytest.approx([(0.1 * 0.75 + 0.8 * 0.25) / 0.9])


def test_differences_are_paired():
    """Two encoders that are right about nearly the same images differ by little, whatever both their intervals are."""
    rng = np.random.default_rng(0)
    right = (rng.random((300, 2)) < 0.5).astype(int)
    other = right.copy()
    other[:4] = 1
    first, second = ([Measured({"random": values.tolist()})] for values in (right, other))
    row = occlusion_row(second, first, (0.0, 0.5), 0)
    low, high = row["occlusion_minus_first"]["random"]["ends"]
    assert high - low < 0.3 * (row["occlusion_ends"][1] - row["occlusion_ends"][0])
    assert low <= (other - right).mean() <= high
