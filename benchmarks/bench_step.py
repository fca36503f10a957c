"""A training step beside the reference implementations' on the same dimensions, and what every option of it costs.

    python benchmarks/bench_step.py [--models base tiny] [--batch N] [--rounds N] [--device cpu] [--precision auto]
                                    [--compile] [--decode-ratio 0.5 0.33] [--mae-checkout FOLDER] [--skip-peer]
                                    [--json FILE] [--markdown FILE]

A step is zero_grad, normalising uint8 images, drawing masks, forward, backward and AdamW, at 224 pixels with 75 %
hidden and normalised targets. The peer is transformers' ViTMAEForPreTraining of the same width, depth and heads in
encoder and decoder, in training mode with its default fused attention, its own random masks and its own loss; it gets
images that are normalised already. Its AdamW is taken in two ways: torch's default (no option but the learning rate,
betas and weight decay), and fused, as ours is. ``--mae-checkout`` is a clone of facebookresearch/mae, whose
models_mae.py is taken as it is, with what newer versions of timm and numpy lack put back; its AdamW is torch's default
with biases and norms in a group of their own, as its training script has it.

Also measured: salient masks (25 % of the image, random maps) against random ones, a share of the hidden patches
decoded, and on processors where the linear layers are oneDNN's, the same step with torch's own products: how much of
the ratio is the library's. All ways take one step after the other in turns, in a new order every round; a ratio is the
median over the rounds of the quotient within a round, with the quartiles. MFU is the share of the peak (of the maker's
data sheet, or on a CPU of a large product measured here) that the FLOPs of our step need at this rate, for the peers
too, whose formulation does a few percent more. Weights are random, images are noise; memory on a GPU is the peak of a
way that runs alone. Wait for a quiet machine: with two cores, anything else that runs is in the figures.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import timm.models.vision_transformer as timm_vit
import torch

from mae.masks.masking import Masking
from mae.models import linear
from mae.models.sizes import SIZES
from mae.models.vit import MaskedAutoencoder
from mae.optimisation import parameter_groups
from mae.pixels import normalise
from mae.precision import resolve_precision
from mae.training.flops import peak_flops, training_flops
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training

SIDE, MASK_RATIO = 224, 0.75
LEARNING_RATE, BETAS, WEIGHT_DECAY = 1e-4, (0.9, 0.95), 0.05
BATCHES = {"cpu": {"mini": 32, "tiny": 32, "small": 16, "base": 8, "large": 4, "huge": 2}, "cuda": {"huge": 128}}
ROUNDS = {"cpu": 9, "cuda": 15}
OURS, SALIENT, COMPILED, OWN_PRODUCTS = "ours", "ours, salient masks", "ours, compiled", "ours, torch's own products"
PEER, FUSED_PEER, PEER_COMPILED = "transformers", "transformers, fused AdamW", "transformers, fused AdamW, compiled"
CHECKOUT = "facebookresearch/mae"


class Setting(NamedTuple):
    """What all ways have in common."""

    name: str
    images: torch.Tensor
    """uint8 [B, 3, 224, 224], on the device."""
    precision: str

    @property
    def device(self) -> torch.device:
        return self.images.device

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class Way(NamedTuple):
    """One way to take a step."""

    step: Callable[[], object]
    flops: int
    """Of an image."""


def ours(setting: Setting, *, salient=False, decode_ratio=1.0, compile=False, own_products=False) -> Way:
    training = our_training(setting, compile)
    patches = training.model.grid[0] * training.model.grid[1]
    masking = Masking("salient" if salient else "random", mask_ratio=MASK_RATIO)
    settings = dataclasses.replace(training.settings, decode_ratio=decode_ratio)
    batch = Batch(setting.images, torch.rand(len(setting.images), patches) if salient else None)

    def step():
        training.masking, training.settings = masking, settings
        with torch_products() if own_products else contextlib.nullcontext():
            training.update([batch])

    return Way(step, training_flops(training.model, MASK_RATIO, decode_ratio))


@functools.cache
def our_training(setting: Setting, compile: bool) -> Training:
    """The weights are the same for all ways: eight ViT-B with their moments would not fit into a small machine."""
    torch.manual_seed(0)
    settings = TrainingSettings(batch_size=len(setting.images), precision=setting.precision, compile=compile)
    return Training(model(setting.name), Masking(mask_ratio=MASK_RATIO), settings, 10_000, setting.device)


def model(name: str) -> MaskedAutoencoder:
    return MaskedAutoencoder.from_size(name, SIDE)


@contextlib.contextmanager
def torch_products():
    before, linear.ONEDNN = linear.ONEDNN, False
    try:
        yield
    finally:
        linear.ONEDNN = before


def transformers_peer(setting: Setting, *, fused=False, compile=False) -> Way:
    peer = transformers_model(setting)
    options = {"fused": True} if fused else {}
    weights = [p for p in peer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, BETAS, weight_decay=WEIGHT_DECAY, **options)
    forward = torch.compile(peer, dynamic=False) if compile else peer
    images = normalise(setting.images)

    def step():
        optimizer.zero_grad()
        with setting.autocast():
            loss = forward(images).loss
        loss.backward()
        optimizer.step()

    return Way(step, plain_flops(setting))


@functools.cache
def transformers_model(setting: Setting):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    size = SIZES[setting.name]
    config = ViTMAEConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        decoder_hidden_size=size.decoder_width,
        decoder_num_hidden_layers=size.decoder_depth,
        decoder_num_attention_heads=size.decoder_heads,
        decoder_intermediate_size=4 * size.decoder_width,
        image_size=SIDE,
        patch_size=size.patch_size,
        mask_ratio=MASK_RATIO,
        norm_pix_loss=True,
        layer_norm_eps=1e-6,
    )
    return ViTMAEForPreTraining(config).to(setting.device).train()


def checkout_peer(setting: Setting, folder: Path) -> Way:
    torch.manual_seed(0)
    size = SIZES[setting.name]
    peer = (
        models_mae(folder)
        .MaskedAutoencoderViT(
            img_size=SIDE,
            patch_size=size.patch_size,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            decoder_embed_dim=size.decoder_width,
            decoder_depth=size.decoder_depth,
            decoder_num_heads=size.decoder_heads,
            mlp_ratio=4,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            norm_pix_loss=True,
        )
        .to(setting.device)
        .train()
    )
    optimizer = torch.optim.AdamW(parameter_groups(peer, WEIGHT_DECAY), LEARNING_RATE, BETAS)
    images = normalise(setting.images)

    def step():
        optimizer.zero_grad()
        with setting.autocast():
            loss = peer(images, mask_ratio=MASK_RATIO)[0]
        loss.backward()
        optimizer.step()

    return Way(step, plain_flops(setting))


def models_mae(folder: Path):
    """The module of the checkout; what it takes from old versions of numpy and timm is put back while it is opened."""
    if "models_mae" in sys.modules:
        return sys.modules["models_mae"]
    block = timm_vit.Block
    timm_vit.Block = lambda *args, qk_scale=None, **options: block(*args, **options)
    np.float = float
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("models_mae")
    finally:
        sys.path.remove(str(folder))
        timm_vit.Block = block


def plain_flops(setting: Setting) -> int:
    with torch.device("meta"):
        return training_flops(model(setting.name), MASK_RATIO)


def ways_to(arguments, setting: Setting) -> dict[str, Callable[[], Way]]:
    ways = {OURS: functools.partial(ours, setting), SALIENT: functools.partial(ours, setting, salient=True)}
    for ratio in arguments.decode_ratio:
        ways[f"ours, {ratio:g} decoded"] = functools.partial(ours, setting, decode_ratio=ratio)
    if setting.device.type == "cpu" and setting.precision == "fp32" and linear.ONEDNN:
        ways[OWN_PRODUCTS] = functools.partial(ours, setting, own_products=True)
    if arguments.compile:
        ways[COMPILED] = functools.partial(ours, setting, compile=True)
    if not arguments.skip_peer:
        ways[PEER] = functools.partial(transformers_peer, setting)
        ways[FUSED_PEER] = functools.partial(transformers_peer, setting, fused=True)
        if arguments.compile:
            ways[PEER_COMPILED] = functools.partial(transformers_peer, setting, fused=True, compile=True)
    if arguments.mae_checkout:
        ways[CHECKOUT] = functools.partial(checkout_peer, setting, arguments.mae_checkout)
    return ways


def measure(ways: dict[str, Way], rounds: int, steps: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of a step of every way in every round, in turns."""
    order, seconds = list(ways), {name: [] for name in ways}
    shuffle = random.Random(0).shuffle
    for _ in range(2):
        for way in ways.values():
            way.step()
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(timed(ways[name].step, steps, device))
    return seconds


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - started) / steps


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(make: Callable[[], Way], device: torch.device) -> float | None:
    """GiB at the most, of a way that runs alone; None on a CPU."""
    if device.type != "cuda":
        return None
    forget()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    way = make()
    for _ in range(3):
        way.step()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


def forget() -> None:
    our_training.cache_clear()
    transformers_model.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def quotient(over: list[float], under: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def report(name: str, arguments, device: torch.device) -> dict:
    count = arguments.batch or BATCHES[device.type].get(name, 256)
    precision = resolve_precision(arguments.precision, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator).to(device)
    setting = Setting(name, images, precision)
    makers = ways_to(arguments, setting)
    memory = {way: peak_memory(make, device) for way, make in makers.items()}
    forget()
    ways = {way: make() for way, make in makers.items()}
    rounds = arguments.rounds or ROUNDS[device.type]
    seconds = measure(ways, rounds, 1 if device.type == "cpu" else 10, device)
    peak = peak_flops(device, precision)
    rows = {}
    for way, times in seconds.items():
        rate = count / statistics.median(times)
        rows[way] = {
            "images_per_second": rate,
            "seconds": statistics.median(times),
            "flops_per_image": ways[way].flops,
            "mfu": rate * ways[way].flops / peak.flops if peak else None,
            "memory_gib": memory[way],
            "times_ours": quotient(times, seconds[OURS]),
        }
    settings = {"model": name, "batch": count, "precision": precision, "rounds": rounds}
    return settings | {"peak_flops": peak._asdict() if peak else None, "rows": rows}


def to_markdown(found: dict) -> str:
    peak = found["peak_flops"]
    limit = f"peak {peak['flops'] / 1e12:.3g} TFLOP/s ({peak['origin']})" if peak else "peak not known"
    lines = [
        f"{found['model']}, batch {found['batch']}, {found['precision']}, median of {found['rounds']} rounds; {limit}",
        "",
        "| step | images/s | GFLOP an image | MFU | GiB | time, in steps of ours (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in found["rows"].items():
        mfu = "–" if row["mfu"] is None else f"{row['mfu']:.1%}"
        memory = "–" if row["memory_gib"] is None else f"{row['memory_gib']:.1f}"
        ratio = row["times_ours"]
        cells = [way, f"{row['images_per_second']:.2f}", f"{row['flops_per_image'] / 1e9:.1f}", mfu, memory]
        shown = "1" if way == OURS else f"{ratio['median']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})"
        lines.append("| " + " | ".join([*cells, shown]) + " |")
    return "\n".join(lines) + "\n"


def machine(device: torch.device) -> str:
    import transformers

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} cores, {place}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SIZES, help="base and tiny; base and large on a GPU")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true", help="measure compiled steps too: minutes to compile")
    parser.add_argument("--decode-ratio", nargs="*", type=float, default=[0.5, 0.33])
    parser.add_argument("--mae-checkout", type=Path, metavar="FOLDER", help="a clone of facebookresearch/mae")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(machine(device), flush=True)
    tables, found = [], []
    for name in arguments.models or (("base", "large") if device.type == "cuda" else ("base", "tiny")):
        found.append(report(name, arguments, device))
        tables.append(to_markdown(found[-1]))
        print("\n" + tables[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(device), "models": found}, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text("\n".join([machine(device) + "\n", *tables]))


if __name__ == "__main__":
    main()
