"""Maps of clips: of motion, by no model, and of a CLIP, one for each slot of a clip's time."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.build.build_saliency import build_saliency
from pipelines.build.options import BuildOptions
from pipelines.commandline.effects import idle_options
from pipelines.sources.open_source import open_source
from pipelines.sources.video.slots import slot_frames
from pipelines.views.clip_motion import ClipMotion, differences
from pipelines.views.clip_views import ClipShape, ClipViews
from pipelines.views.image_views import InOrder, load_views
from pipelines.views.joined_maps import JoinedMaps, join_maps
from saliency.maps import quantise
from saliency.quality import lay_on_image
from saliency.table.checks import check_table
from saliency.table.shard import ShardError, ShardFile
from saliency.table.table import Row, SaliencyTable, shard_files, write_shard
from tests.pipelines.build.test_build_saliency import rejects, tree
from tests.pipelines.pretraining import invoke, nano_options, nano_runs, run
from tests.pipelines.sources.video.test_motion import FRAMES, H264, HEIGHT, WIDTH, on_square, panned
from tests.pipelines.video_files import write_video

GRID, SLOTS = 16, 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A file that carries vectors, and a folder of the same frames, which does not; a caption each."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", panned(), **H264)
    (folder / "b").mkdir()
    for t, frame in enumerate(panned()):
        Image.fromarray(frame).save(folder / "b" / f"{t:02d}.png")
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("a square")
    return folder


def build(source, out, **options):
    return build_saliency(BuildOptions(str(source), out, **{"clips": True, "workers": 1} | options), quiet=True)


def middle_of(slot):
    return slot_frames(np.arange(FRAMES) / 25, SLOTS)[slot]


@pytest.mark.parametrize("method", ["motion", "frame-difference"])
def test_a_map_for_each_slot_lies_on_what_moves_then(clips, tmp_path, method):
    build(clips, tmp_path / "maps", method=method, slots=SLOTS, grid=GRID)
    table = SaliencyTable(tmp_path / "maps")
    assert (len(table), table.slots, table.grid) == (2, SLOTS, GRID)
    assert table.metadata["schema_version"] == 2
    assert np.isnan(table.clip_scores).all()
    maps = table.raw_slot_maps(np.arange(2))
    for slot in range(1, SLOTS):
        square = on_square(middle_of(slot), GRID)
        on, off = maps[:, slot][:, square].mean(1), maps[:, slot][:, ~square].mean(1)
        assert (on > (3 if method == "motion" else 1) * off).all(), slot
    assert (table.maps(np.arange(2)) == table.slot_maps(np.arange(2))[:, (SLOTS - 1) // 2]).all()
    report = check_table(tmp_path / "maps")
    assert all(check.passed for check in report.checks)
    assert any("in 6 slots" in check.found for check in report.checks)
    build(clips, tmp_path / "middle", method=method, slots=SLOTS, grid=GRID, clip_maps="middle")
    middle = SaliencyTable(tmp_path / "middle")
    assert (middle.slots, middle.metadata["schema_version"], "slots" in middle.metadata) == (1, 1, False)
    of_slot = table.raw_maps(np.arange(2))
    assert middle.raw_maps(np.arange(2)) == pytest.approx(of_slot, abs=float(table.strengths.max()) / 255)


def test_the_command_says_which_videos_carry_no_vectors(clips, tmp_path):
    out = tmp_path / "maps"
    done = invoke("build-saliency", clips, "--clips", "--method", "motion", "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 of 2 videos carry no motion vectors" in done.stderr
    assert "first: b" in done.stderr
    before = tree(out)
    assert invoke("build-saliency", clips, "--clips", "--method", "motion", "--out", out).exit_code == 0
    assert tree(out) == before
    shown = invoke("inspect", out, "--source", clips, "--gallery", tmp_path / "maps.png")
    assert shown.exit_code == 0, shown.output
    assert "the maps show motion" in shown.stdout
    assert (tmp_path / "maps.png").exists()
    assert invoke("export-maps", out, "--to", "png", "--out", tmp_path / "png").exit_code == 0
    pngs = sorted((tmp_path / "png").glob("*.png"))
    assert [Image.open(path).size for path in pngs] == [(16 * 16, 16)] * 2
    card = invoke("publish", out, "me/maps", "--dry-run", tmp_path / "card", "--preview", 0)
    assert card.exit_code == 0, card.output
    text = (tmp_path / "card" / "README.md").read_text()
    assert "(16, 16, 16)" in text
    assert "--method motion --grid 16 --slots 16" in text
    assert "--clip none" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes:4", "--method", "motion"], "--method motion is for videos, and shapes:4 is a source of images"),
        (["shapes:4", "--clip-maps", "per-slot"], "--clip-maps per-slot is for videos"),
        (["CLIPS", "--clips", "--method", "motion", "--clip", "x"], "--clip has no effect with --method motion"),
        (["CLIPS", "--clips", "--slots", "4"], "--slots has no effect with --clip-maps middle"),
        (["CLIPS", "--clips", "--clip-maps", "per-slot", "--tiles", "2"], "--tiles is for one map per image"),
        (["CLIPS", "--clips", "--method", "motion", "--slots", "999"], "--slots is 999; it must be at most 256"),
    ],
)
def test_a_mistake_is_one_line(clips, tmp_path, words, message):
    done = invoke("build-saliency", *[clips if word == "CLIPS" else word for word in words], "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_damaged_video_is_recorded(clips, tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.mp4").write_bytes((clips / "a.mp4").read_bytes())
    (tmp_path / "two" / "b.mp4").write_bytes((clips / "a.mp4").read_bytes()[:900])
    manifest = build(tmp_path / "two", tmp_path / "maps", method="motion", max_rejected=1.0)
    assert (manifest.written, manifest.rejected) == (1, 1)
    assert [item["key"] for item in rejects(tmp_path / "maps")] == ["b.mp4"]


def test_a_clips_slots_under_a_clip_are_the_maps_of_their_frames(clips, tmp_path, tiny_clip):
    build(clips, tmp_path / "maps", clip=tiny_clip, clip_maps="per-slot", slots=SLOTS, batch_size=4)
    table = SaliencyTable(tmp_path / "maps")
    (tmp_path / "frames").mkdir()
    frames = slot_frames(np.arange(FRAMES, dtype=float), SLOTS)
    lines = []
    for slot, frame in enumerate(frames):
        (tmp_path / "frames" / f"x{slot}.png").write_bytes((clips / "b" / f"{frame:02d}.png").read_bytes())
        lines.append(json.dumps({"file_name": f"x{slot}.png", "caption": "a square"}))
    (tmp_path / "frames" / "metadata.jsonl").write_text("\n".join(lines))
    build(tmp_path / "frames", tmp_path / "single", clip=tiny_clip, clips=False)
    single = SaliencyTable(tmp_path / "single")
    of_clip = table.raw_slot_maps(np.array([1]))[0]
    assert of_clip == pytest.approx(single.raw_maps(np.arange(SLOTS)), abs=2 * float(of_clip.max()) / 255)
    assert table.clip_scores[1] == pytest.approx(single.clip_scores.mean(), abs=1e-5)


def slot_table(folder, slots, keys=("v",)):
    """Maps of 2×2 cells: in slot k, the left half is k + 1 and the right half 0."""
    maps = np.zeros((len(keys), slots, 2, 2), np.float32)
    maps[..., 0] = np.arange(1, slots + 1)[None, :, None]
    metadata = {"schema_version": 2, "slots": slots, "grid": 2, "clip": "none", "method": "motion"}
    rows = [Row(key, None, "", "0" * 64, 32, 32, (0, 0, 1, 1), 0.0) for key in keys]
    write_shard(folder / "data" / "train-00000-of-00001.parquet", rows, *quantise(maps), metadata)
    return folder


@pytest.mark.parametrize("flip", [False, True])
def test_a_training_clip_takes_the_maps_of_its_own_time(tmp_path, flip):
    table = SaliencyTable(slot_table(tmp_path / "maps", 8))
    source = replace(open_source("shapes-video:1,size=32,frames=32", clips=True), texts=None)
    views = ClipViews(source, (16, 16), ClipShape(8, 2, place=(1, 2)), augment=False)  # the last 15 frames
    (batch,) = load_views(views, InOrder(1, 1), workers=0)
    batch = replace(batch, flips=torch.tensor([flip]))
    assert batch.moments[0] == pytest.approx((np.arange(17, 32, 2) + 0.5) / 32)
    found = JoinedMaps(table, np.array([0])).on_views(batch, (4, 2, 2)).view(4, 2, 2)
    expected = torch.tensor([(5 + 5) / 2, (6 + 6) / 2, (7 + 7) / 2, (8 + 8) / 2])  # two frames a slot, of 4 frames each
    assert torch.allclose(found[:, :, int(flip)], expected[:, None].expand(-1, 2), atol=0.02)
    assert found[:, :, 1 - int(flip)].abs().max() == 0
    images = replace(batch, moments=None)  # the middle frame as an image
    assert JoinedMaps(table, np.array([0])).on_views(images, (2, 2))[0, int(flip)].item() == pytest.approx(4, abs=0.02)


def test_slots_that_do_not_go_with_the_version_are_refused(tmp_path):
    path = shard_files(slot_table(tmp_path / "maps", 3))[0]
    assert ShardFile(path).slots == 3
    for change in ({"slots": 1}, {"slots": 4}, {"slots": "3"}, {"schema_version": 1}):
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        metadata = json.loads(table.schema.metadata[b"saliency_mae"]) | change
        pq.write_table(table.replace_schema_metadata({b"saliency_mae": json.dumps(metadata)}), tmp_path / "x.parquet")
        with pytest.raises(ShardError, match="slots that do not go with|differs from version 2 in saliency"):
            ShardFile(tmp_path / "x.parquet")


def test_differences_are_the_means_of_tubelets():
    clips = torch.randint(0, 256, (2, 3, 4, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = differences(clips, (2, 2, 3)).view(2, 2, 2, 3)
    pixels = clips.double() / 255
    by_frame = [(pixels[:, :, max(t, 1)] - pixels[:, :, max(t, 1) - 1]).abs().mean(1) for t in range(4)]
    expected = (by_frame[2][:, 4:8, 8:12].mean((1, 2)) + by_frame[3][:, 4:8, 8:12].mean((1, 2))) / 2
    assert torch.allclose(found[:, 1, 1, 2].double(), expected, atol=1e-6)
    assert differences(clips[:, :, :1], (1, 2, 3)).abs().max() == 0


@pytest.mark.parametrize("method", ["motion", "frame-difference"])
def test_pretraining_hides_what_moves(clips, tmp_path, monkeypatch, method):
    nano_runs(monkeypatch)
    options = replace(
        nano_options(tmp_path / "run"), source=str(clips), frames=4, frame_stride=2, masking=method, tubes=False,
        salient_ratio=0.5, mask_ratio=0.5, batch_size=2, epochs=2,
    )  # fmt: skip
    done = run(options)
    assert done.config()["maps"] is None
    assert done.config()["masking"]["strategy"] == method
    source = open_source(str(clips), clips=True)
    views = ClipViews(source, (HEIGHT, WIDTH), ClipShape(4, 2), augment=False, moving=method == "motion")
    (batch,) = load_views(views, InOrder(2, 2), workers=0)
    maps = ClipMotion(method).on_views(batch, (4, 12, 20)).view(2, 4, 12, 20).numpy()
    for slot, frame in enumerate(range(2, 10, 2)):  # the middle clip
        square = lay_on_image(on_square(frame, 32).astype(np.float32), (12, 20), (0, 0, 1, 1)) > 0.5
        if slot and method == "motion":
            assert (maps[:, slot][:, square].mean(1) > 3 * maps[:, slot][:, ~square].mean(1)).all()
    with pytest.raises(ValueError, match=f"--masking {method} is for video: say how many frames"):
        replace(options, frames=None)
    nothing = replace(batch, indices=np.zeros(0, np.int64), images=torch.empty(0, 3, 0, 0), motion=None)
    assert ClipMotion(method).on_views(nothing, (4, 12, 20)).shape == (0, 960)
    assert "saliency" in [name for name, _ in idle_options(replace(options, saliency="maps"))]


def test_maps_by_slot_train_a_run(clips, tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    build(clips, tmp_path / "maps", method="motion", slots=SLOTS)
    given = {"source": str(clips), "saliency": str(tmp_path / "maps"), "tubes": False, "mask_ratio": 0.5}
    clip = {"frames": 4, "frame_stride": 2, "batch_size": 2, "epochs": 1}
    done = run(replace(nano_options(tmp_path / "run"), **given, **clip))
    assert done.config()["maps"]["slots"] == SLOTS
    joined = join_maps(tmp_path / "maps", open_source(str(clips), clips=True), on_missing="error")
    assert joined.missing == 0
