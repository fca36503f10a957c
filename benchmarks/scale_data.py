"""Large inputs for bench_scale.py, made fast: maps of millions of pairs, a folder of a million files, a long video.

The maps are random blobs under random captions, in the files that a job array of ``build-saliency`` leaves. The files
are hard links to a JPEG of one pixel. The video repeats the packets of one short clip.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipelines.build.shard_plan import Plan, shard_name
from saliency.maps import quantise
from saliency.table.manifest import Manifest, Shard, part_name
from saliency.table.shard import schema, write_rows

SHARD, PARTS = 4096, 8
REJECTED = 512
"""One pair in so many was rejected when the maps were made."""
A_FOLDER = 1000  # files
RATE = 25  # frames/s
_CLIP = 250  # frames that the long video repeats
_SYLLABLES = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su", "ta", "ve", "wi", "yo", "zu", "ché"]
_ALL = [0.0, 0.0, 1.0, 1.0]


def make_maps(maps: Path, source: Path, pairs: int, grid: int) -> None:
    """A finished job array over ``pairs`` pairs in ``maps``; in ``source`` the table of the pairs, in another order."""
    settings = {"schema_version": 1, "grid": grid, "clip": "ViT-B-16", "pretrained": "openai", "method": "gradcam"}
    settings |= {"weights_sha256": "0" * 64, "layer": "transformer.resblocks.11.ln_1", "fit": "squash", "tiles": 1}
    settings |= {"image_size": 224, "precision": "fp32", "interpolation": "bicubic", "package_version": "0.1.0"}
    shape, plan, words = schema(grid, settings), Plan(pairs, SHARD), _words()
    settings |= {"pairs": pairs, "pairs_sha256": "0" * 64, "shard_size": SHARD}
    parts = [Manifest(settings, {"source": "/data/cc3m"}, name=part_name(i + 1, PARTS)) for i in range(PARTS)]
    for folder in (maps / "data", maps / "rejected", source):
        folder.mkdir(parents=True)
    listed = pa.schema([(name, pa.string()) for name in ("file_name", "key", "caption")])
    with pq.ParquetWriter(source / "metadata.parquet", listed, compression="zstd") as writer:
        for number in np.random.default_rng(0).permutation(plan.count).tolist():
            rng, rows = np.random.default_rng((1, number)), plan.rows(number)
            keys, captions = _numbered(rows), _captions(rng, len(rows), words)
            names = pc.binary_join_element_wise(pc.utf8_slice_codeunits(keys, 0, 5), keys, "/")
            names = pc.binary_join_element_wise(names, "jpg", ".")
            writer.write_table(pa.Table.from_arrays([names, keys, captions], schema=listed))
            count = len(rows) - len(rows) // REJECTED
            name = shard_name(number, plan.count)
            table = _rows(rng, keys[:count], captions[:count], shape)
            write_rows(maps / "data" / name, table)
            lost = zip(keys[count:].to_pylist(), captions[count:].to_pylist(), strict=True)
            lines = [json.dumps({"key": k, "caption": c, "reason": "damaged"}, ensure_ascii=False) for k, c in lost]
            if lines:
                path = maps / "rejected" / name.replace("parquet", "jsonl")
                path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
            digest = hashlib.sha256((maps / "data" / name).read_bytes()).hexdigest()
            parts[number % PARTS].add(Shard(name, digest, len(rows), count, len(rows) - count))
    for part in parts:
        part.complete = True
        part.save(maps)


def make_files(folder: Path, count: int) -> None:
    """``count`` tiny JPEGs in folders of a thousand; each folder's are one file under many names."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    for start in range(0, count, A_FOLDER):
        below = folder / f"{start // A_FOLDER:05d}"
        below.mkdir(parents=True)
        first, *others = (f"{below}/{i:09d}.jpg" for i in range(start, min(start + A_FOLDER, count)))
        Path(first).write_bytes(buffer.getvalue())
        for other in others:
            os.link(first, other)


def make_video(path: Path, frames: int) -> None:
    """An MP4 of 64×48 at 25 frames/s: the packets of one encoded clip over and over, their times running on."""
    path.parent.mkdir(parents=True)
    short = path.with_name("short.mp4")
    with av.open(str(short), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE, options={"g": "50"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(_CLIP):
            pixels = np.full((48, 64, 3), number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels)):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    with av.open(str(short)) as clip, av.open(str(path), "w") as file:
        stream = clip.streams.video[0]
        ticks = int(1 / stream.time_base / RATE)
        target = file.add_stream_from_template(stream)
        packets = [(bytes(packet), packet.is_keyframe) for packet in clip.demux(stream) if packet.size]
        for number in range(frames):
            data, starts = packets[number % _CLIP]
            packet = av.Packet(data)
            packet.stream, packet.time_base = target, stream.time_base
            packet.pts = packet.dts = number * ticks
            packet.duration, packet.is_keyframe = ticks, starts
            file.mux(packet)
    short.unlink()


def _rows(rng, keys, captions, shape):
    """The table's rows for these pairs: blobs as maps, random hashes, sizes and scores."""
    count = len(keys)
    side = round(shape.field("saliency").type.list_size ** 0.5)
    stored, vmin, scale = quantise(_blobs(rng, count, side))
    urls = pc.binary_join_element_wise("https://images.example.org/photo", keys, "/")
    hexadecimal = pa.py_buffer(rng.bytes(32 * count).hex().encode())
    starts = pa.py_buffer(np.arange(0, 64 * (count + 1), 64, dtype=np.int32))
    width, height = rng.integers(200, 2000, (2, count), np.int32)
    boxes = pa.array(np.tile(np.asarray(_ALL, np.float32), count))
    columns = [
        keys,
        urls,
        captions,
        pa.StringArray.from_buffers(count, starts, hexadecimal),
        pa.array(width),
        pa.array(height),
        pa.FixedSizeListArray.from_arrays(boxes, 4),
        pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), side * side),
        pa.array(vmin),
        pa.array(scale),
        pa.array(rng.normal(0.3, 0.03, count).astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=shape)


def _blobs(rng, count, side):
    """One or two blobs a map over some noise, float32 [n, side, side]."""
    cells = (np.arange(side, dtype=np.float32) + 0.5) / side
    maps = rng.random((count, side, side), np.float32) * 0.1
    for weight in (1.0, 0.5):
        centres, widths = rng.random((2, count, 1), np.float32), rng.uniform(0.1, 0.3, (count, 1))
        rows, columns = (np.exp(-(((cells - centre) / widths) ** 2)).astype(np.float32) for centre in centres)
        maps += np.float32(weight) * rows[:, :, None] * columns[:, None, :]
    return maps


def _numbered(rows):
    """Keys as img2dataset writes them."""
    return pc.utf8_lpad(pa.array(np.arange(rows.start, rows.stop)).cast(pa.string()), 9, "0")


def _words():
    return pa.array([a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in ("", *_SYLLABLES)])


def _captions(rng, count, words):
    """Captions of six to fourteen words, of which some are frequent."""
    offsets = np.concatenate([[0], np.cumsum(rng.integers(6, 15, count))]).astype(np.int32)
    chosen = np.minimum(rng.zipf(1.2, offsets[-1]) - 1, len(words) - 1)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, words.take(pa.array(chosen))), " ")
