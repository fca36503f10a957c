"""`pretrain --masking gate` as a run: it resumes to the bit, is looked at, compared, and says what it can't do."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mae.mask_learners.gate import load_gate
from mae.training.checkpoints import list_checkpoints
from pipelines.compare.plots import mask_sheet
from pipelines.compare.unit import Unit
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export.export import export
from pipelines.inspect.inspect import inspect
from pipelines.inspect.options import InspectOptions
from pipelines.pretrain.pretrain import summary
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import SOURCE, losses, run, stopping
from tests.tiny_mae import write_maps


@pytest.fixture
def base(base):
    return replace(base, masking="gate", gate_ratio=1.0, keep=9)


def gate_of(folder):
    return load_gate(list_checkpoints(folder.folder)[-1] / "gate.safetensors").state_dict()


MIDDLE = {"gate_reads": "middle", "gate_slots": 4}


@pytest.mark.parametrize("changes", [{}, MIDDLE])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, changes):
    base = replace(base, **changes)
    whole = run(base)
    stopped = replace(base, out=tmp_path / "stopped")
    with stopping(11), pytest.raises(KeyboardInterrupt):
        run(stopped)
    resumed = run(replace(stopped, resume=True))
    assert losses(resumed) == losses(whole)
    ours, theirs = gate_of(resumed), gate_of(whole)
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    names = ("background", "contrast", "area", "important_hidden", "other_hidden")
    assert {f"gate_{name}" for name in names} <= set(whole.metrics()[0])
    assert "of the important patches and " in summary(whole)[1]
    assert resumed.metrics()[-1]["gate_contrast"] == whole.metrics()[-1]["gate_contrast"]
    assert whole.config()["masking"]["strategy"] == "gate"


def test_without_a_ratio_it_is_the_random_run(base, tmp_path):
    gated = run(replace(base, gate_ratio=0.0, epochs=1))
    plain = run(replace(base, masking="random", out=tmp_path / "plain", epochs=1))
    assert losses(gated) == losses(plain)
    assert losses(run(replace(base, out=tmp_path / "other", epochs=1))) != losses(plain)


def test_a_teacher_changes_what_the_gate_learns(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_source(SOURCE))
    alone, taught = run(base), run(replace(base, out=tmp_path / "taught", gate_teacher=maps))
    assert not torch.equal(gate_of(alone)["score.weight"], gate_of(taught)["score.weight"])
    assert taught.config()["maps"] is not None
    again = replace(base, out=tmp_path / "taught", gate_teacher=f"{maps}/", resume=True)
    assert losses(run(again)) == losses(taught)  # maps/ is maps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_ratio": 1.5}, "--gate-ratio 1.5 must lie between 0 and 1"),
        ({"gate_sign": "both"}, "--gate-sign 'both' is not one of: hide, keep"),
        ({"gate_contrast": -1.0}, "at least 0"),
        ({"gate_reads": "pixels"}, "--gate-reads 'pixels' is not one of: patches, middle, middle-all"),
        ({"gate_width": 20}, "the width must be a multiple of 16"),
        ({"masking": "gates"}, "--masking 'gates' is not one of: random"),
        ({"gate_teacher": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes(base, changes, message):
    with pytest.raises((UserError, ValueError), match=message):
        run(replace(base, **changes))


@pytest.mark.usefixtures("pictures")
def test_its_scores_are_drawn_and_judged_at_every_checkpoint(base, tmp_path):
    done = run(base)
    assert Image.open(done.folder / "plots" / "hidden.png").size[0] > 300
    found = inspect(
        InspectOptions(
            str(done.folder), source="shapes:30,split=test,size=32", gate=True, gallery=tmp_path / "gate.png", limit=20
        )
    )
    assert found.map_scores.judged == 20
    assert list(found.numbers["auc"]) == [4, 8, 12, 16, 18]
    assert all(0 <= value <= 1 for value in found.numbers["auc"].values())
    assert found.numbers["auc"][18] == found.map_scores.figures["maps"]["auc"].mean
    assert "caption" not in found.map_scores.verdict()
    json.dumps(found.to_json())
    for name in ("gate.png", "gate-auc.png"):
        assert Image.open(tmp_path / name).size[0] > 300
    own = inspect(InspectOptions(str(done.folder), gate=True, limit=5))
    assert own.map_scores.judged == 5


def test_a_gate_of_video_is_looked_at_on_still_clips(base, tmp_path):
    base = replace(base, **MIDDLE)
    clips = replace(base, source="shapes-video:8,size=32,frames=4", frames=4, tubelet=2, image_size=(32,), epochs=1)
    done = run(replace(clips, mask_ratio=0.75))
    found = inspect(
        InspectOptions(str(done.folder), source="shapes:10,size=32", gate=True, gallery=tmp_path / "gate.png")
    )
    assert found.map_scores.judged == 10
    assert Image.open(tmp_path / "gate.png").size[0] > 300


def test_a_run_without_a_gate_and_what_is_no_run(base):
    plain = run(replace(base, masking="random", epochs=1))
    with pytest.raises(UserError, match="has no gate"):
        inspect(InspectOptions(str(plain.folder), gate=True))
    with pytest.raises(UserError, match="--gate looks at a run"):
        inspect(InspectOptions(SOURCE, gate=True))


def test_a_comparison_draws_the_masks_that_were_learned(base, tmp_path):
    run(base)
    unit = Unit("gate", 0, base, EvaluateOptions(str(base.out), SOURCE), tmp_path / "record.json")
    mask_sheet(tmp_path / "masks.png", [unit])
    assert Image.open(tmp_path / "masks.png").size[1] > 300


@pytest.mark.parametrize(("kind", "changes"), [("mae", MIDDLE), ("timm", {}), ("transformers", MIDDLE)])
def test_the_gate_is_exported_with_its_model(base, tmp_path, kind, changes):
    done = run(replace(base, epochs=1, **changes))
    export(done.folder, kind, tmp_path / kind)
    taken = load_gate(tmp_path / kind / "gate.safetensors").state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in gate_of(done).items())
    card = (tmp_path / kind / "README.md").read_text()
    assert "load_gate" in card
    assert "| gate |" in card  # the masking


def test_a_share_of_the_patches_is_judged_beside_all(base, tmp_path):
    done = run(replace(base, image_size=(32,), epochs=1, **MIDDLE))
    whole = str(done.folder)
    names = [f"{whole}@keep=0.5", f"{whole}@keep=0.5,random", f"{whole}@keep=1"]
    opened = [open_encoder(name, pool="mean", device="cpu") for name in (whole, *names)]
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    features = [encoder.features(images) for encoder in opened]
    assert torch.equal(features[0], features[3])
    assert not torch.equal(features[0], features[1])
    assert not torch.equal(features[1], features[2])
    assert len({encoder.identity() for encoder in opened}) == 4
    with pytest.raises(UserError, match="leave @keep out"):
        opened[1].network(0.0)
    result = evaluate(EvaluateOptions(whole, "shapes:60,size=32", beside=tuple(names[:2]), workers=0), quiet=True)
    assert [row["encoder"] for row in result["rows"]] == [whole, *names[:2], "untrained"]


@pytest.mark.parametrize(
    ("suffix", "message"), [("@keep=half", "@keep=half"), ("@keep=2", "at most 1"), ("@keep=0.5,luck", "not one of")]
)
def test_shares_that_cannot_be(base, suffix, message):
    done = run(replace(base, epochs=1))
    with pytest.raises(UserError, match=message):
        open_encoder(f"{done.folder}{suffix}", pool="mean", device="cpu")
    with pytest.raises(UserError, match="@keep is for masked autoencoders"):
        open_encoder("timm:vit_tiny_patch16_224@keep=0.5", pool="mean", device="cpu")


def test_a_damaged_gate_is_not_exported(base, tmp_path):
    done = run(replace(base, epochs=1))
    (list_checkpoints(done.folder)[-1] / "gate.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="is no gate that can be read"):
        export(done.folder, "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()
