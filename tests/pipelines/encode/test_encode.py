"""`encode`: features of pictures and of streams, row by row."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

pytest.importorskip("av")

from mae.evaluation.kept_encoder import KeptEncoder
from mae.pixels import normalise
from mae.recovery.stream_encoder import StreamEncoder
from mae.training.checkpoints import load_model
from pipelines.encode.encode import _view
from pipelines.views.geometry import View, central_box, view_image
from tests.mae.recovery.test_stream_encoder import video
from tests.pipelines.reconstruct.test_reconstruct_video import footage, invoke
from tests.pipelines.video_files import write_video


def test_features_of_a_video(models, tmp_path):
    write_video(tmp_path / "clip.mkv", footage(), codec="ffv1", pixels="bgr0")
    done = invoke("encode", models / "video", tmp_path / "clip.mkv", "--out", tmp_path / "features.parquet")
    assert done.exit_code == 0, done.output
    assert "5 rows" in done.output
    table = pq.read_table(tmp_path / "features.parquet")
    assert table["frame"].to_pylist() == [0, 2, 4, 6, 8]
    assert table["frames"].to_pylist() == [2, 2, 2, 2, 1]
    assert table["time"].to_pylist() == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
    view = View(central_box(50, 37, 24 / 16))
    seen = np.stack([view_image(Image.fromarray(frame), view, (16, 24)) for frame in footage()])
    encoder = StreamEncoder(video())
    expected = [each.feature() for each in encoder.push(torch.from_numpy(seen)) + encoder.flush()]
    assert np.array_equal(np.stack(table["feature"].to_pylist()).astype(np.float32), torch.stack(expected).numpy())
    assert table.schema.metadata[b"tubelet"] == b"2"
    assert pq.read_metadata(tmp_path / "features.parquet").metadata[b"faults"] == b"{}"


def test_what_is_skipped_is_told(models, tmp_path):
    frames = np.stack([footage()[0]] * 8 + list(footage(2)))
    write_video(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0")
    words = ["encode", models / "video", tmp_path / "clip.mkv", "--out", tmp_path / "features.parquet"]
    done = invoke(*words, "--skip-below", "0.01")
    assert done.exit_code == 0, done.output
    assert "60.0% of the patches, which changed by less than 0.01" in done.output
    table = pq.read_table(tmp_path / "features.parquet")
    assert table["skipped"].to_pylist() == [0, 1, 1, 1, 0]
    assert table.schema.metadata[b"skip_below"] == b"0.01"
    assert pq.read_metadata(tmp_path / "features.parquet").metadata[b"skipped"] == b"0.6000"
    assert "at least 0 and below 1" in invoke(*words, "--skip-below", "2").output
    refused = invoke("encode", models / "image", *words[2:], "--skip-below", "0.01")
    assert refused.exit_code == 2
    assert "for models of video" in refused.output


def test_a_share_of_the_patches(models, tmp_path):
    write_video(tmp_path / "clip.mkv", footage(), codec="ffv1", pixels="bgr0")
    Image.fromarray(footage()[0]).save(tmp_path / "one.png")
    words = ["--out", tmp_path / "features.parquet", "--keep", "0.25", "--keep-by", "center"]
    for name, place in (("video", "clip.mkv"), ("image", "clip.mkv"), ("image", "one.png")):
        done = invoke("encode", models / name, tmp_path / place, *words)
        assert done.exit_code == 0, done.output
        assert "0.25 of the patches, by center" in done.output
        table = pq.read_table(tmp_path / "features.parquet")
        assert (table.schema.metadata[b"keep"], table.schema.metadata[b"keep_by"]) == (b"0.25", b"center")
    view = _view(Image.fromarray(footage()[0]), load_model(models / "image"))
    expected = KeptEncoder(load_model(models / "image"), 0.25, "center").features(normalise(view))[0]
    assert np.array_equal(table["feature"].to_pylist()[0], expected.numpy())
    assert "has no gate" in invoke("encode", models / "video", tmp_path / "clip.mkv", *words[:4]).output
    assert "at most 1" in invoke("encode", models / "video", tmp_path / "clip.mkv", *words[:3], "2").output
    assert "--keep-by has no effect" in invoke("encode", models / "video", "clip.mkv", *words[:2], *words[4:]).output


def test_features_of_pictures(models, tmp_path):
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(footage(3)):
        Image.fromarray(frame).save(tmp_path / "in" / f"{number}.png")
    for name in ("4.png", "more/0.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"torn")
    Image.fromarray(footage(3)[0]).save(tmp_path / "in" / "more" / "1.png")
    done = invoke("encode", models / "image", tmp_path / "in", "--out", tmp_path / "features.parquet")
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "features.parquet")
    assert table["name"].to_pylist() == ["0.png", "1.png", "2.png", "more/1.png"]
    assert np.isfinite(np.stack(table["feature"].to_pylist())).all()
    assert np.array_equal(table["feature"].to_pylist()[0], table["feature"].to_pylist()[3])
    rejected = (tmp_path / "features.rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in rejected] == ["4.png", "more/0.png"]
    assert json.loads(rejected[0])["reason"] == "not an image"
    done = invoke("encode", models / "image", tmp_path / "in" / "4.png", "--out", tmp_path / "none.parquet")
    assert done.exit_code == 2
    assert not (tmp_path / "none.parquet").exists()
    as_frames = invoke("encode", models / "image", tmp_path / "in", "--as-video", "--out", tmp_path / "frames.parquet")
    assert as_frames.exit_code == 0, as_frames.output
    assert "1 frames could not be decoded" in as_frames.output
    frames = np.stack(pq.read_table(tmp_path / "frames.parquet")["feature"].to_pylist())
    assert len(frames) == 4
    assert np.allclose(frames[:3], np.stack(table["feature"].to_pylist()[:3]), atol=1e-5)
    assert np.array_equal(frames[2], frames[3])
