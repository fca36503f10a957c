"""``encode``: features of pictures, or of a stream of frames as it comes, as Parquet.

A picture is a row; of a stream, every tubelet is one: the mean of the tokens that a
:class:`mae.recovery.stream_encoder.StreamEncoder` gives for it, with what was seen before remembered (of an image
model: every frame). All see the central part that has the model's shape. The file appears when it is whole; rows are
written as they come, so memory does not grow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.kept_encoder import KeptEncoder
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.precision import rounded
from mae.recovery.kept_stream import KeptStream
from mae.recovery.stream_encoder import Encoded, LiveEncoder, stream_encoder
from pipelines.commandline.machine import usable_precision
from pipelines.encode.options import EncodeOptions
from pipelines.errors import UserError, user_errors, without_secrets
from pipelines.frames.live import Live, faults_in_words, skipped_in_words
from pipelines.frames.options import is_stream
from pipelines.outputs import check_apart, one_writer
from pipelines.progress import progress_bar
from pipelines.reconstruct.reconstruct import open_model, picture_files
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.names import text_names
from pipelines.sources.source import read_file
from pipelines.views.geometry import central_view
from saliency.files import opened_atomically, remove_leftovers, write_text_atomically

_ROWS = 1024
"""Of a row group."""


@dataclass
class Encoding:
    """What came of it."""

    rows: int = 0
    frames: int = 0
    """Of a stream."""
    faults: dict[str, int | bool] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason) of pictures that could not be read."""
    latency: int = 1
    """In frames."""
    patches: int = 0
    """Of a stream, by tubelet; ``skipped`` of them had not changed."""
    skipped: int = 0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of the patches that were skipped."""
        return self.skipped / max(self.patches, 1)

    def facts(self, options: EncodeOptions) -> dict[str, str]:
        """Lines of text by title."""
        facts = {"features": f"{self.rows} rows in {options.out}"}
        if self.frames:
            facts["frames"] = f"{self.frames}, {self.frames / self.seconds:.3g} a second"
            facts["latency"] = f"{self.latency} frames"
        if options.keep != 1:
            facts["kept"] = f"{options.keep:g} of the patches, by {options.keep_by}"
        if options.skip_below:
            facts["skipped"] = skipped_in_words(self.share, options.skip_below)
        if self.rejected:
            name, reason = self.rejected[0]
            facts["rejected"] = f"{len(self.rejected)}, first: {name}: {reason}; all are in {rejects(options.out)}"
        return facts | faults_in_words(self.faults, options.stall_timeout)


Rows = Iterator[dict[str, Any]]


def encode(options: EncodeOptions, *, quiet: bool = True) -> Encoding:
    """Write the features of a picture, a folder of pictures or a stream. UserError for what can't be opened."""
    started = time.monotonic()
    with user_errors():
        stream = options.live
    check_out(options)
    model, gate = open_model(options.run, options.device)
    with user_errors():
        gate = gate and gate.to(options.device)
        kept = KeptEncoder(model, options.keep, options.keep_by, gate) if options.keep != 1 else None
    precision = usable_precision(options.precision, options.device)
    found = Encoding()
    metadata = {"model": str(options.run), "input": without_secrets(options.input)}
    if kept is not None:
        metadata |= {"keep": str(options.keep), "keep_by": options.keep_by}
    if is_stream(options.input, as_video=options.as_video):
        with user_errors():
            encoder = stream_encoder(model, precision, options.skip_below)
        if kept is not None:
            encoder = KeptStream(encoder, kept)
        live = Live(stream)
        metadata |= {"fps": str(live.fps), "tubelet": str(getattr(model, "tubelet", 1))}
        if options.skip_below:
            metadata["skip_below"] = str(options.skip_below)
        rows = _of_stream(encoder, model, live, found, quiet=quiet, skips=options.skip_below > 0)
    else:
        if isinstance(model, VideoMaskedAutoencoder):
            raise UserError(f"{options.run} is a model of video: give a video, or a folder of frames and --as-video")
        files = picture_files(options)
        rows = _of_pictures(kept or model, model, precision, files, found, quiet=quiet)
    with one_writer(options.out.parent, name=options.out.name):
        remove_leftovers(options.out.parent, {options.out.name, rejects(options.out).name}, deep=False)
        _write(options.out, rows, model.pos_embed.shape[-1], metadata, found)
    found.seconds = time.monotonic() - started
    return found


def check_out(options: EncodeOptions) -> None:
    """UserError if ``--out`` is no place for the file."""
    check_apart(options.out, [options.input], file=True)
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder; give a file to write, such as features.parquet")


def rejects(out: Path) -> Path:
    """Where the pictures are recorded that could not be read."""
    return out.with_name(f"{out.stem}.rejected.jsonl")


def _of_stream(
    encoder: LiveEncoder, model: MaskedAutoencoder, live: Live, found: Encoding, *, quiet: bool, skips: bool
) -> Rows:
    found.latency = encoder.latency
    bar = progress_bar(live, unit="frames", quiet=quiet)

    def row(encoded: Encoded) -> dict[str, Any]:
        place = {"frame": encoded.first, "time": encoded.first / float(live.fps), "frames": encoded.frames}
        found.patches += len(encoded.places)
        found.skipped += encoded.skipped
        if skips:
            place["skipped"] = encoded.skipped / max(len(encoded.places), 1)
            bar.set_postfix(skipped=f"{found.share:.0%}", refresh=False)
        return place | {"feature": encoded.feature()}

    for frame in bar:
        found.frames += 1
        yield from map(row, encoder.push(_view(Image.fromarray(frame), model)))
    yield from map(row, encoder.flush())
    found.faults = dict(live.faults.shown())


@torch.no_grad()
def _of_pictures(
    encoder: MaskedAutoencoder | KeptEncoder,
    model: MaskedAutoencoder,
    precision: str,
    files: dict[str, Path],
    found: Encoding,
    *,
    quiet: bool,
) -> Rows:
    device = model.pos_embed.device
    named = list(zip(text_names(list(files)), files.values(), strict=True))
    for name, file in progress_bar(named, unit="images", quiet=quiet):
        try:
            pixels = _view(decode_rgb(read_file(str(file))), model)
        except (BadImage, OSError) as error:
            found.rejected.append((name, str(error)))
            continue
        with rounded(precision, device):
            feature = encoder.features(normalise(copy_to(pixels, device)))[0]
        yield {"name": name, "feature": feature}


def _view(image: Image.Image, model: MaskedAutoencoder) -> Tensor:
    """The central part of an image, uint8 [1, 3, H, W] of the model's size."""
    return torch.from_numpy(central_view(image, model.image_size))[None]


def _write(out: Path, rows: Rows, width: int, metadata: dict[str, str], found: Encoding) -> None:
    """Row groups as they are full; UserError if there is no row at all, and then no file."""
    feature = pa.list_(pa.float32(), width)
    with opened_atomically(out) as file:
        writer = None
        for group in _groups(rows):
            columns = {name: [row[name] for row in group] for name in group[0] if name != "feature"}
            flat = torch.cat([row["feature"] for row in group]).float().cpu().numpy()  # the device is waited for here
            table = pa.table(columns | {"feature": pa.FixedSizeListArray.from_arrays(pa.array(flat), type=feature)})
            table = table.replace_schema_metadata(metadata)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            found.rows += len(group)
        if writer is None:
            name, reason = found.rejected[0]
            raise UserError(f"{name}: {reason}" + (", and so on" if len(found.rejected) > 1 else ""))
        told = {"faults": json.dumps(found.faults)}
        writer.add_key_value_metadata(told | ({"skipped": f"{found.share:.4f}"} if "skip_below" in metadata else {}))
        writer.close()
    lines = "".join(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in found.rejected)
    if lines:
        write_text_atomically(rejects(out), lines)


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group
