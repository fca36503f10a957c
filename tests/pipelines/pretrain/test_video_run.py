"""`pretrain --frames` as a run: it resumes to the bit, in two processes too, takes maps and gates, is looked at."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import list_checkpoints, load_model
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.pretrain import plain
from pipelines.pretrain.pretrain import pretrain
from pipelines.pretrain.settings import settings_of
from pipelines.sources.open_source import open_clips
from tests.pipelines.pretrain.test_distributed import errors, torchrun
from tests.pipelines.pretraining import assert_same_weights, losses, nano_options, run, stopping
from tests.pipelines.video_files import pictures, write_video
from tests.tiny_mae import NANO, write_maps

CLIPS = {"frames": 4, "frame_stride": 2, "source": "shapes-video:24,size=32,frames=16", "mask_ratio": 0.5}
CELLS = {"decode_ratio": 0.5, "decoder_masking": "running-cell"}


@pytest.fixture
def base(base):
    return replace(base, **CLIPS, keep=9)


def test_a_run_has_a_video_model_and_tubes(base, tmp_path):
    done = run(replace(base, mask_ratio=None, image_size=(32,)))
    config = done.config()
    assert config["grid"] == [2, 4, 4]
    assert config["options"]["mask_ratio"] == 0.9
    assert config["masking"]["strategy"] == "tube"
    assert isinstance(load_model(base.out), VideoMaskedAutoencoder)
    assert all(np.isfinite(losses(done)))
    again = run(replace(base, mask_ratio=None, image_size=(32,), out=tmp_path / "again"))
    assert losses(again) == losses(done)


@pytest.mark.parametrize("more", [{}, CELLS, {"masking": "gate", "gate_ratio": 1.0}], ids=["tube", "cells", "gate"])
def test_a_stopped_run_goes_on_to_the_bit(base, tmp_path, more):
    whole = run(replace(base, **more))
    stopped = replace(base, out=tmp_path / "stopped", **more)
    with stopping(11), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert losses(run(replace(stopped, resume=True))) == losses(whole)
    assert_same_weights(stopped.out, base.out)


def test_a_running_cell_is_another_choice_of_the_same_number(base, tmp_path):
    random = run(replace(base, decode_ratio=0.5, epochs=1))
    cells = run(replace(base, **CELLS, out=tmp_path / "cells", epochs=1))
    assert losses(random) != losses(cells)
    assert random.config()["flops_per_image"] == cells.config()["flops_per_image"]
    assert random.config()["masking"] == cells.config()["masking"]


def test_errors_are_weighted_by_the_clips_map_in_every_slot(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_clips(base.source))
    weighted = replace(base, masking="tube", saliency=maps, saliency_weight=1.0, epochs=1)
    assert losses(run(weighted)) != losses(run(replace(base, out=tmp_path / "plain", epochs=1)))


@pytest.mark.slow
def test_two_processes_do_the_run_of_one(base, tmp_path):
    options = [{**CLIPS, **CELLS}, {**CLIPS, "masking": "gate"}]
    places = [tmp_path / f"two-{number}" for number in range(len(options))]
    runs = [[{"out": str(place), **more}, None] for place, more in zip(places, options, strict=True)]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    done = torchrun("several", tmp_path)
    assert done.returncode == 0, errors(done)
    for place, more in zip(places, options, strict=True):
        one = run(replace(base, out=tmp_path / f"one-{place.name}", **more))
        metrics = [json.loads(line)["loss"] for line in (place / "metrics.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(metrics, losses(one), rtol=1e-4)


def test_a_gate_without_a_ratio_is_the_tube_run(base, tmp_path):
    gated = run(replace(base, masking="gate", gate_ratio=0.0, epochs=1))
    assert losses(gated) == losses(run(replace(base, out=tmp_path / "plain", epochs=1)))
    assert (list_checkpoints(base.out)[-1] / "gate.safetensors").is_file()
    other = run(replace(base, masking="gate", gate_ratio=1.0, out=tmp_path / "other", epochs=1))
    assert losses(other) != losses(gated)


@pytest.mark.parametrize("tubes", [True, False])
def test_a_clips_map_is_every_slots(base, tmp_path, tubes):
    """The left half of every map is salient: what is hidden is left in the view, or right in a mirrored one."""
    source = open_clips(base.source)
    maps = np.zeros((24, 4, 4))
    maps[:, :, :2] = 1
    folder = write_maps(tmp_path / "maps", source, maps=maps)
    seen = []
    options = replace(base, saliency=folder, salient_ratio=0.5, image_size=(32,), tubes=tubes, epochs=1)

    forward = VideoMaskedAutoencoder.forward

    def watched(self, images, mask, *more, **options):
        seen.append(mask.hidden.view(-1, 2, 4, 4))
        return forward(self, images, mask, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoMaskedAutoencoder, "forward", watched)
        run(options)
    hidden = torch.cat(seen)
    assert len(hidden) == 24
    assert torch.equal(hidden[:, 0], hidden[:, 1]) or not tubes
    assert hidden.float().mean() == 0.5


def test_a_run_starts_from_an_image_run(base, tmp_path):
    images = run(replace(nano_options(tmp_path / "images"), epochs=1))
    started = run(replace(base, inflate=images.folder, epochs=1, blr=1e-9))
    model, still = load_model(base.out), load_model(images.folder)
    assert (model.class_tokens, model.frames) == (1, 4)
    weight = still.state_dict()["blocks.0.attn.qkv.weight"]
    torch.testing.assert_close(model.state_dict()["blocks.0.attn.qkv.weight"], weight, rtol=0, atol=1e-4)
    assert started.config()["options"]["inflate"] == str(images.folder)
    assert losses(run(replace(base, inflate=images.folder, epochs=1, blr=1e-9, resume=True))) == losses(started)


def test_unreadable_videos_are_recorded(base, tmp_path):
    pytest.importorskip("av")
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(12):
        write_video(folder / f"{number:02}.mkv", pictures(10))
    (folder / "03.mkv").write_bytes((folder / "03.mkv").read_bytes()[:300])
    options = replace(base, source=str(folder), epochs=2, max_rejected=0.1)
    done = run(options)
    assert [line["key"] for line in done.rejected()] == ["03.mkv"]
    assert done.rejected()[0]["reason"]
    assert all(np.isfinite(losses(done)))
    with pytest.raises(UserError, match="1 of 12 videos can't be read"):
        run(replace(options, max_rejected=0.05, out=tmp_path / "strict"))


def test_the_reconstructions_are_a_sheet_of_frames(base, pictures, monkeypatch):
    sheets = []
    monkeypatch.setattr(plain, "contact_sheet", lambda path, columns: sheets.append((path.name, columns)))
    pretrain(replace(base, epochs=1), quiet=True)
    ((name, columns),) = sheets
    assert name == "reconstructions.png"
    assert list(columns) == ["", "frame 0", "frame 1", "frame 2", "frame 3"]
    assert columns[""][1:3] == ["mask", "reconstruction"]
    assert {len(cells) for cells in columns.values()} == {9}
    frame, masked, filled = columns["frame 2"][:3]
    grey = (masked == 128).all(-1)
    assert 0.4 < grey.mean() < 0.7
    assert np.array_equal(frame[~grey], filled[~grey])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"frames": None, "masking": "tube"}, "--masking tube is for video"),
        ({"frames": None, "decoder_masking": "running-cell"}, "--decoder-masking running-cell is for video"),
        ({"frames": None, "inflate": "run"}, "--inflate is for video"),
        ({"decoder_masking": "running-cell"}, "--decode-ratio 0.5"),
        ({"decoder_masking": "cells"}, "random, running-cell"),
        ({"masking": "hard"}, "learned masks for video are gate"),
        ({"augment_on": "device"}, "--augment-on device is for images"),
        ({"frame_stride": 0}, "--frame-stride is 0"),
        ({"positions": "learned"}, "space-time, table"),
        ({"positions": "table", "inflate": "run"}, "leave out --inflate"),
        ({"inflate": "run", "patch_size": 8}, "leave out --patch-size"),
    ],
)
def test_what_does_not_go_together_is_said(base, options, reason):
    with pytest.raises(ValueError, match=reason):
        settings_of(replace(base, **options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"frames": 3}, "--frames 3 must be a multiple of --tubelet 2"),
        ({"inflate": "absent"}, "--inflate absent does not exist"),
        ({"source": "shapes-video:2"}, "has 2 videos, fewer than one step takes"),
        ({"source": "shapes:24"}, "what is wanted are videos: shapes-video:N draws some"),
        ({"caption_column": "text"}, "leave out --caption-column"),
    ],
)
def test_mistakes(base, options, reason):
    with pytest.raises(UserError, match=reason):
        run(replace(base, **options))


def test_only_an_image_model_of_the_size_is_inflated(base, tmp_path):
    MaskedAutoencoder(24, **NANO._asdict()).save_pretrained(tmp_path / "larger")
    with pytest.raises(UserError, match="give --image-size 24x24"):
        run(replace(base, inflate=tmp_path / "larger"))
    run(replace(base, epochs=1))
    with pytest.raises(UserError, match="is of video already"):
        run(replace(base, inflate=base.out, out=tmp_path / "other"))


def test_a_run_is_an_encoder_of_clips(base):
    run(replace(base, epochs=1))
    assert open_encoder(str(base.out), pool="cls", device="cpu").frames == 4
    shutil.rmtree(base.out)
