"""`evaluate` and `compare` of models of video: what is seen of a clip, what hides it, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mae.evaluation.probes import knn_predict
from mae.masks.masking import Masking
from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import normalise
from mae.training.checkpoints import save_checkpoint
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from pipelines.compare.compare import compare
from pipelines.compare.plan import UNTRAINED, plan_from
from pipelines.errors import UserError
from pipelines.evaluate import data
from pipelines.evaluate.encoders.clip_encoders import on_clips
from pipelines.evaluate.encoders.encoder import open_encoder
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.evaluate.protocols import occlusion
from pipelines.evaluate.protocols.occluders import Occluders
from pipelines.evaluate.protocols.occlusion_curves import occluded
from pipelines.evaluate.table import CLIP_OCCLUDERS
from pipelines.sources.open_source import open_clips
from pipelines.views.clip_views import ClipShape, ClipViews, clip_frames
from pipelines.views.image_views import InOrder, load_views
from pipelines.views.labelled import Labelled
from tests.pipelines.pretraining import invoke, nano_runs
from tests.pipelines.video_files import pictures
from tests.tiny_mae import NANO, nano, write_maps

CLIPS, TEST = "shapes-video:24,size=16,frames=12", "shapes-video:12,split=test,size=16,frames=12"
SHAPE = ClipShape(4, 3)


def save_run(folder, model=None, seed=0, **options):
    torch.manual_seed(seed)
    model = model or VideoMaskedAutoencoder(image_size=16, frames=4, **NANO._asdict())
    save_checkpoint(folder, Training(model, Masking(), TrainingSettings(), 1))
    (folder / "config.json").write_text(json.dumps({"options": {"saliency": None, "frame_stride": 3, **options}}))
    return str(folder)


@pytest.fixture
def base(tmp_path):
    run = save_run(tmp_path / "run", seed=5)
    return EvaluateOptions(run, CLIPS, test=TEST, batch_size=16, workers=0, recover_images=0)


def judge(options):
    return evaluate(options, quiet=True)


def clips_of(spec, size=16):
    source = open_clips(spec)
    part = Labelled(source, source.labels, SHAPE)
    (batch,) = load_views(part.views((size, size)), InOrder(len(part), len(part)), workers=0)
    return part, batch


def test_accuracy_is_that_of_features_of_the_middle_clips(base, tmp_path):
    image = save_run(tmp_path / "image", nano(16))
    result = judge(replace(base, beside=(image,)))
    assert result["clip"] == {"frames": 4, "frame_stride": 3}
    assert [row["encoder"] for row in result["rows"]] == [base.run, image, "untrained"]
    (train, known), (test, asked) = clips_of(CLIPS), clips_of(TEST)
    video = open_encoder(base.run, pool="mean", device="cpu").autoencoder
    still = open_encoder(image, pool="cls", device="cpu").autoencoder
    with torch.no_grad():
        found = [video.features(normalise(batch.images)) for batch in (known, asked)]
        frames = [
            torch.stack([still.features(normalise(batch.images[:, :, t]), "cls") for t in range(4)]).mean(0)
            for batch in (known, asked)
        ]
    for row, (values, queries) in zip(result["rows"], (found, frames), strict=False):
        labels = torch.from_numpy(train.labels)
        predictions = knn_predict(values, labels, queries, k=20, temperature=0.07, classes=6)
        assert row["knn"] == pytest.approx(float((predictions.numpy() == test.labels).mean()))
    turned = judge(replace(base, run=image, beside=(base.run,), untrained=False, protocols=("knn",)))
    assert turned["clip"] == result["clip"]
    assert [row["knn"] for row in turned["rows"]] == [row["knn"] for row in result["rows"][1::-1]]


def test_what_is_seen_are_the_frames_of_the_stride():
    part, batch = clips_of(TEST)
    video = part.source.open_video(2)
    frames = video.read(clip_frames(video.times, SHAPE).tolist())
    expected = np.stack([np.asarray(frame).transpose(2, 0, 1) for frame in frames], axis=1)
    assert np.array_equal(batch.images[2].numpy(), expected)
    assert clip_frames(video.times, SHAPE).tolist() == [1, 4, 7, 10]


def test_what_is_finished_is_kept_by_clip(base, monkeypatch):
    result, calls = judge(base), []
    real = data.compute_features
    monkeypatch.setattr(data, "compute_features", lambda *a, **k: calls.append(a) or real(*a, **k))
    assert judge(base) == result
    assert not calls
    assert judge(replace(base, frame_stride=1))["clip"] == {"frames": 4, "frame_stride": 1}
    assert len(calls) == 4


def test_a_share_of_the_tubelets(base):
    kept = [f"{base.run}@keep=0.5,{by}" for by in ("random", "center")]
    rows = judge(replace(base, protocols=("knn",), beside=tuple(kept), untrained=False))["rows"]
    assert [row["encoder"] for row in rows] == [base.run, *kept]
    _, batch = clips_of(TEST)
    whole, half = (open_encoder(name, pool="mean", device="cpu") for name in (base.run, kept[1]))
    assert half.identity() != whole.identity()
    model, center = whole.autoencoder, [0, 1, 2, 3]  # of 2×2 places and 2 slots, all alike: the first
    expected = model.encode_visible(normalise(batch.images), torch.tensor([center] * len(batch.images))).mean(1)
    torch.testing.assert_close(half.features(batch.images), expected)


def test_a_model_of_fewer_frames_sees_some_of_the_same(base, tmp_path):
    short = save_run(tmp_path / "short", VideoMaskedAutoencoder(image_size=16, frames=2, **NANO._asdict()))
    encoder = open_encoder(short, pool="mean", device="cpu")
    _, batch = clips_of(TEST)
    features = on_clips(encoder, SHAPE).features(batch.images)
    torch.testing.assert_close(features, encoder.features(batch.images[:, :, [1, 3]].contiguous()))
    judge(replace(base, protocols=("knn",), beside=(short,), untrained=False))
    with pytest.raises(UserError, match="takes clips of 4 frames, which 2 can't be shared out to"):
        judge(replace(base, run=short, beside=(base.run,)))


def test_a_video_that_can_not_be_read_is_recorded_and_many_are_an_error(base, tmp_path, monkeypatch):
    for label in ("a", "b"):
        for number in range(4):
            folder = tmp_path / "clips" / label / f"clip-{number}x"
            folder.mkdir(parents=True)
            for frame, picture in enumerate(pictures(6)):
                Image.fromarray(picture).save(folder / f"{frame:03}.png")
    (tmp_path / "clips" / "a" / "clip-1x" / "003.png").write_bytes(b"no picture")
    options = replace(base, source=str(tmp_path / "clips"), test=None, test_fraction=0.25, protocols=("knn",))
    with pytest.raises(UserError, match="1 of 6 images of .* can't be read"):
        judge(options)
    monkeypatch.setattr("pipelines.evaluate.supervised.MAX_UNREADABLE", 0.5)
    assert "frame 003.png" in judge(options)["unreadable"]["a/clip-1x"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"protocols": ("occlusion",), "occluder": ("block",)}, "--occluder block is of images, .* give block-static,"),
        ({"source": "shapes-video:4,size=16", "beside": ("{run}@keep=0.5",)}, "this model has no gate to keep patches"),
    ],
)
def test_what_there_is_not_for_video(base, more, message):
    if "beside" in more:
        more = {**more, "beside": tuple(name.format(run=base.run) for name in more["beside"])}
    with pytest.raises(UserError, match=message):
        judge(replace(base, **more))


def test_what_there_is_not_for_images(base, tmp_path):
    image = replace(base, run=save_run(tmp_path / "image", nano(16)), source="shapes:8,size=16", test=None)
    with pytest.raises(UserError, match="--occluder block-moving is of clips, .* give block, object"):
        judge(replace(image, protocols=("occlusion",), occluder=("block-moving",)))
    with pytest.raises(UserError, match="--frame-stride is of clips"):
        judge(replace(image, frame_stride=2))
    with pytest.raises(UserError, match="--clips is of clips"):
        judge(replace(image, clips=2))
    words = [image.run, CLIPS, "--frame-stride", 0]
    assert "--frame-stride is 0; it must be at least 1" in invoke("evaluate", *words).stderr


def test_accuracy_under_occlusion_and_what_is_filled_in(base, tmp_path, monkeypatch):
    other = save_run(tmp_path / "image", nano(24))  # sees them at another size
    kinds = ("salient", "block-static", "block-moving")
    options = replace(
        base, protocols=("occlusion",), occlusion_shares="0,0.5", recover_images=3, beside=(other,), occluder=kinds
    )
    result = judge(options)
    assert result["occluders"] == {"grid": [2, 2], "fill": "grey", "salient_by": "true masks"}
    for row in result["rows"]:
        assert tuple(row["occlusion_curves"]) == kinds
        for kind, curve in row["occlusion_curves"].items():
            assert {name.rpartition("_")[0] for name in curve["recovery"]} == {
                "model",
                "neighbours",
                "nearest_frame",
                "",
            }
            assert curve["recovery"]["images"] == 3
            still = np.allclose(curve["recovery"]["nearest_frame_psnr"][1], curve["recovery"]["neighbours_psnr"][1])
            assert still == (kind == "block-static")
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {"occlusion.png", "occluded.png"}
    monkeypatch.setattr(occlusion.Occlusion, "measure", lambda *_, **__: pytest.fail("it is finished"))
    assert judge(options) == result


def test_maps_of_the_training_are_refused_and_others_hide_alike_in_all_frames(base, tmp_path):
    maps = write_maps(tmp_path / "maps", open_clips(TEST))
    run = save_run(tmp_path / "trained", saliency=str(maps))
    options = replace(base, protocols=("occlusion",), occlusion_shares="0,0.5", occluder_maps=str(maps))
    with pytest.raises(UserError, match="was trained with these maps"):
        judge(replace(options, run=run))
    options = replace(options, occluder=("salient",), untrained=False)
    assert judge(options)["occluders"]["salient_by"] == str(maps)


@pytest.mark.parametrize("kind", CLIP_OCCLUDERS)
def test_every_frame_is_hidden_to_the_share_and_all_follows_from_seed_and_key(kind):
    part, batch = clips_of(TEST, 32)
    occluders = Occluders(part, (8, 8))
    occluder, filling = occluders.draw(kind, batch), occluders.filling(batch)
    less, region = (occluder.region(share, (32, 32)) for share in (0.2, 0.4))
    assert region.shape == (12, 4, 32, 32)
    assert (region.float().mean((2, 3)) - 0.4).abs().max() <= 1 / 64
    assert not (less & ~region).any() or kind.startswith("block")
    images = occluded(batch, occluder, 0.4, filling)
    outside = ~region[:, None].expand_as(images)
    assert torch.equal(images[outside], batch.images[outside])
    if not kind.startswith("object"):
        assert (images.permute(0, 2, 3, 4, 1)[region] == filling.flatten()).all()
    alike = (region == region[:, :1]).all()
    assert alike == (kind == "random" or kind.endswith("static"))
    assert torch.equal(images, occluded(batch, Occluders(part, (8, 8)).draw(kind, batch), 0.4, filling))
    other = Occluders(part, (8, 8), seed=1).draw(kind, batch).region(0.4, (32, 32))
    assert not torch.equal(other, region)
    alone = replace(batch, images=batch.images[3:4], boxes=batch.boxes[3:4], indices=batch.indices[3:4])
    assert torch.equal(occluders.draw(kind, alone).region(0.4, (32, 32)), region[3:4])


def test_what_moves_crosses_the_picture_at_constant_speed():
    part, batch = clips_of(TEST, 64)
    region = Occluders(part, (8, 8)).draw("block-moving", batch).region(0.1, (64, 64)).double()
    steps = torch.arange(64).double()
    centres = torch.stack([region.sum(3) @ steps, region.sum(2) @ steps], 2) / region.sum((2, 3))[..., None]
    moved = centres.diff(dim=1)
    assert (moved - moved.mean(1, keepdim=True)).abs().max() <= 1.5  # places are whole pixels
    sides = torch.stack([region.any(3), region.any(2)], 2)  # [B, T, 2, 64]
    crossed = [(sides[:, first, :, 0] & sides[:, -1 - first, :, -1]) for first in (0, -1)]
    assert (crossed[0] | crossed[1]).any(1).all()
    assert len({tuple(row) for row in centres[:, 0].round().tolist()}) > 6


def test_what_is_salient_is_so_frame_by_frame():
    part, batch = clips_of(TEST, 16)
    occluders = Occluders(part, (16, 16))
    masks = torch.stack([torch.from_numpy(part.masks(i)) for i in range(len(part))])
    assert not torch.equal(masks[:, 0], masks[:, -1])
    share = float(masks.float().mean((2, 3)).max())
    on = {kind: occluders.draw(kind, batch).region(share + 0.01, (16, 16)) for kind in ("salient", "non-salient")}
    assert (on["salient"] | ~masks).all()
    assert not (on["non-salient"] & masks).any()


def test_noise_is_another_in_every_frame():
    part, batch = clips_of(TEST)
    noise = Occluders(part, (8, 8), fill="noise").filling(batch)
    assert noise.shape == batch.images.shape
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def content(arms=None, **judged):
    occluded = {"occlusion_shares": "0,0.5", "occluder": ["block-moving"], "recover_images": 0}
    judged = {"test": TEST, "protocols": ["knn", "occlusion"]} | occluded | judged
    settings = {
        "model": "nano",
        "image_size": 16,
        "batch_size": 8,
        "epochs": 1,
        "warmup_epochs": 0.5,
        "mask_ratio": 0.5,
    }
    return {
        "source": CLIPS,
        "seeds": [0],
        "pretrain": settings | {"frames": 4, "frame_stride": 2},
        "evaluate": judged,
        "arms": arms or {"random": {"masking": "random"}, "tube": {"masking": "tube"}},
    }


def test_arms_of_video_are_compared(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    monkeypatch.setattr("pipelines.evaluate.protocols.occlusion.draw_occlusion", lambda *_: None)
    plan = plan_from(content())
    found = compare(plan, tmp_path / "out", device="cpu", workers=0, quiet=True)
    assert not found.failed
    assert set(found.values) == {"knn", "occlusion"}
    assert all(set(table) == {"random", "tube", UNTRAINED} for table in found.values.values())
    record = json.loads((tmp_path / "out" / "records" / "tube" / "seed-0.json").read_text())
    assert record["result"]["clip"] == {"frames": 4, "frame_stride": 2}
    assert (tmp_path / "out" / "plots" / "masks.png").exists()


@pytest.mark.parametrize(
    ("arms", "judged", "message"),
    [
        ({"random": {}, "image": {"frames": None}}, {}, "arms: random and image differ in frames"),
        ({"random": {}, "long": {"frames": 8}}, {}, "arms: random and long differ in frames \\(4, 8\\)"),
        ({"random": {}, "fast": {"frame_stride": 4}}, {}, "say which one they are judged with"),
        (None, {"occluder": ["block"]}, "evaluate: --occluder block is of images"),
        (None, {"source": "shapes:8"}, "shapes:8 draws images, and what is wanted are videos"),
    ],
)
def test_arms_that_can_not_be_compared_are_refused_before_anything_runs(tmp_path, monkeypatch, arms, judged, message):
    nano_runs(monkeypatch)
    monkeypatch.setattr("pipelines.compare.unit.pretrain", lambda *_, **__: pytest.fail("nothing may run"))
    with pytest.raises(UserError, match=message):
        compare(plan_from(content(arms, **judged)), tmp_path / "out", device="cpu", workers=0, quiet=True)


def test_clips_of_a_part_are_whole_views():
    part, _ = clips_of(TEST)
    views = part.views((16, 16))
    assert isinstance(views, ClipViews)
    assert not views.augment
    assert part.at_once(17) == 4
    assert part.at_once(1) == 1
