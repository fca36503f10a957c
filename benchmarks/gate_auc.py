"""Does the gate learn where the objects are? AUC of its scores on unseen images, step by step, trained with the MAE.

    python benchmarks/gate_auc.py [--train shapes:2000] [--steps 600] [--seeds 3] [--masked folder/] [--positions]

Both start from random weights. Printed per step: the AUC (each image's pixels, a patch's score for all of its pixels,
mean over images) on 300 unseen scenes against the masks of *all* objects and on each ``--masked`` source against its
masks (or boxes, for a Parquet table with a column ``box`` of pixels x0, y0, x1, y1); beside it the untrained gate
(step 0), the centre prior, and each patch's distance from its image's mean patch, a rule that learns nothing.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from mae.gate import Gate
from mae.gate_loss import GateObjective
from mae.gate_training import GateSettings, GateTraining
from mae.masking import center_prior
from mae.training import learning_rate, normalise, parameter_groups
from mae.vit import MaskedAutoencoder
from pipelines import shapes
from pipelines.geometry import View, view_image
from pipelines.sources import open_source
from pipelines.views import EpochBatches, Views, load_views

PATCH = 8


def scenes(count: int) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Unseen scenes and the union of their objects' masks, which the scenes themselves do not keep."""
    for index in range(count):
        silhouettes = []

        def record(*arguments, draw=shapes._silhouette, found=silhouettes):
            found.append(draw(*arguments))
            return found[-1]

        with mock.patch.object(shapes, "_silhouette", record):
            scene = shapes.draw_scene(index, split="test")
        yield Image.fromarray(scene.image), np.max([one > 0.5 for one in silhouettes], axis=0)


def masked(place: Path, limit: int) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Images and masks: a folder with ``metadata.jsonl``, frames beside their ``_mask.png``, or boxes in Parquet."""
    if place.suffix == ".parquet":
        for row in pq.read_table(place).slice(0, limit).to_pylist():
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            mask = np.zeros((image.height, image.width), bool)
            x0, y0, x1, y1 = row["box"]
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
            yield image, mask
    elif (place / "metadata.jsonl").exists():
        for line in (place / "metadata.jsonl").read_text().splitlines()[:limit]:
            row = json.loads(line)
            mask = np.asarray(Image.open(place / row["mask_file_name"]).convert("L")) > 127
            yield Image.open(place / row["file_name"]).convert("RGB"), mask
    else:
        for frame in sorted(place.glob("*.jpg"))[:limit:3]:
            mask = np.asarray(Image.open(frame.with_name(f"{frame.stem}_mask.png")).convert("L")) > 0
            yield Image.open(frame).convert("RGB"), mask


def prepare(pairs: Iterator[tuple[Image.Image, np.ndarray]], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [n, 3, size, size], and the objects' share of each patch [n, N]; images squashed, as a whole."""
    images, covers = [], []
    for image, mask in pairs:
        images.append(view_image(image, View(), (size, size)))
        cells = size // PATCH
        fine = Image.fromarray((mask * 255).astype(np.uint8)).resize((cells * 16, cells * 16), Image.Resampling.BOX)
        covers.append(np.asarray(fine, np.float32).reshape(cells, 16, cells, 16).mean((1, 3)).ravel() / 255)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(covers))


def auc(scores: torch.Tensor, cover: torch.Tensor) -> float:
    """Chance that a pixel on an object is in a patch of higher score than one off it, ties half; mean over images."""
    inside, outside = cover, 1 - cover
    wins = (scores[:, :, None] > scores[:, None]).float() + 0.5 * (scores[:, :, None] == scores[:, None]).float()
    pairs = inside.sum(1) * outside.sum(1)
    won = torch.einsum("bn,bnm,bm->b", inside, wins, outside)
    return float((won / pairs)[pairs > 1e-6].mean())


@torch.no_grad()
def judge(gate: Gate, model: MaskedAutoencoder, tests: dict) -> list[float]:
    found = []
    for images, cover in tests.values():
        logits = [gate(model.patch_embed(normalise(part)), model.grid) for part in images.split(50)]
        found.append(round(auc(torch.cat(logits), cover), 3))
    return found


def controls(model: MaskedAutoencoder, tests: dict) -> None:
    for name, (images, cover) in tests.items():
        tokens = model.patchify(normalise(images))
        apart = (tokens - tokens.mean(1, keepdim=True)).norm(dim=-1)
        centre = auc(center_prior(model.grid).expand(len(cover), -1), cover)
        share = f"objects cover {cover.mean():.3f}"
        print(f"{name}: n {len(cover)}, {share}, centre {centre:.3f}, apart {auc(apart, cover):.3f}")


def train(arguments: argparse.Namespace, seed: int, tests: dict) -> None:
    torch.manual_seed(seed)
    model = MaskedAutoencoder.from_size(arguments.model, arguments.size, PATCH, norm_pix=False)
    if seed == 0:
        controls(model, tests)
    objective = GateObjective(contrast=arguments.contrast, frame_is_background=arguments.positions)
    gate = Gate(model.pos_embed.shape[-1], positions=arguments.positions)
    training = GateTraining(gate, model.patch_embed, GateSettings(objective=objective, ratio=0.5), model.grid)
    peak = arguments.blr * arguments.batch / 256
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=peak, betas=(0.9, 0.95))
    source = open_source(arguments.train, limit=arguments.limit)
    batches = EpochBatches(len(source), arguments.batch, len(source) // arguments.batch, 1000, seed=seed)
    loader = load_views(Views(source, model.image_size, augment=True, seed=seed), batches, workers=0)
    started, every = time.perf_counter(), max(arguments.steps // 6, 1)
    for step, batch in enumerate(loader):
        if step % every == 0 or step == arguments.steps:
            print(
                f"seed {seed} step {step}: {judge(gate, model, tests)} {time.perf_counter() - started:.0f} s",
                flush=True,
            )
        if step == arguments.steps:
            break
        images, generator = normalise(batch.images), torch.Generator().manual_seed(seed * 1_000_003 + step)
        rate = learning_rate(step, arguments.steps, 0.1 * arguments.steps, 1.0)
        logits, _ = training.look(images, generator)
        training.apply(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * peak
        optimizer.zero_grad()
        model(images, training.masks(logits, 0.75, generator)).loss.backward()
        optimizer.step()
    if arguments.out:
        torch.save({"gate": gate.state_dict(), "model": model.state_dict()}, arguments.out / f"seed{seed}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default="shapes:2000")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--masked", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--blr", type=float, default=0.024)
    parser.add_argument("--contrast", type=float, default=GateObjective.contrast)
    parser.add_argument("--positions", action="store_true", help="the gate sees places, and the frame is background")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tests = {"scenes": prepare(scenes(300), arguments.size)} if not arguments.masked else {}
    tests |= {place.stem: prepare(masked(place, 500), arguments.size) for place in arguments.masked}
    for seed in range(arguments.seeds):
        train(arguments, seed, tests)


if __name__ == "__main__":
    main()
