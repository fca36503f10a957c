"""A masked autoencoder small enough for tests, and maps that no CLIP has to make."""

import numpy as np

from mae.models.sizes import Size
from mae.models.vit import MaskedAutoencoder
from saliency.maps import FULL, quantise
from saliency.table.table import Row, write_shard

NANO = Size(16, 1, 2, 16, 1, 2, patch_size=8)


def nano(image_size=32, **options):
    return MaskedAutoencoder(image_size=image_size, **NANO._asdict(), **options)


def write_maps(folder, source, *, maps=None, grid=4, boxes=None, captions=None):
    """Maps [n, G, G] (random ones if not given) for every pair of a source."""
    if maps is None:
        maps = np.random.default_rng(0).random((len(source), grid, grid))
    grid = maps.shape[1]
    captions = captions or ([""] * len(source) if source.captions is None else source.captions.to_pylist())
    boxes = [FULL] * len(source) if boxes is None else boxes
    rows = [
        Row(key, None, caption, "ab" * 32, 32, 32, box, 0.25)
        for key, caption, box in zip(source.keys.to_pylist(), captions, boxes, strict=True)
    ]
    metadata = {"schema_version": 1, "grid": grid, "clip": "none", "method": "drawn", "layer": "none"}
    metadata |= {"pretrained": None, "weights_sha256": "0"}
    write_shard(folder / "data" / "train-00000-of-00001.parquet", rows, *quantise(maps.astype(np.float32)), metadata)
    return folder
