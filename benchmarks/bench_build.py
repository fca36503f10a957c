"""The whole of build-saliency beside its model alone, a bare forward pass and pytorch-grad-cam, in one run.

    python benchmarks/bench_build.py [--model ViT-B-16] [--pairs 64] [--batch 16] [--rounds 3] [--precision auto]
                                     [--device cpu] [--workers 2] [--compile] [--skip-peer] [--captions 5]
                                     [--method gradcam] [--size 500x375]

Random weights; JPEGs of 500×375 (--size) with captions of their own in a folder. In every round, in turns: the forward
pass of the images alone, the maps of ready batches (images decoded, texts encoded), the same with their texts (all that
the model must do: the model-only rate), the whole command in this process (read, decode, texts, maps, write), and
pytorch-grad-cam in the two ways its users run it, with its default flags and a full backward pass: an image a call, as
its README and examples do, and a batch a call. The peer gets fewer images, since it is slower. With --captions also the
whole command over so many captions of each image, with one look at the image and with a look for each caption. Prints
images/s, the median of the rounds, and the ratios.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from safetensors.torch import save_file

from pipelines.build import pairs as pairs_of_build
from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.build.model_input import see
from pipelines.build.stages import Stages
from saliency.methods.methods import saliency_maps
from saliency.towers.tower import load_tower

TEXT = "a dog cat red house in the park with two people walking along old stone bridge under grey sky near river"
PEER_IMAGES = 8
ONE_LOOK, LOOK_EACH = "all captions, one look", "all captions, a look each"


class ImageTower(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.encode_image(images, normalize=True)


class Cosine:
    def __init__(self, text):
        self.text = text

    def __call__(self, feature):
        return (feature * self.text).sum()


def save_model(name, folder):
    """A random model in open_clip's ``local-dir:`` layout, so that the command loads it as it loads a real one."""
    config = open_clip.get_model_config(name)
    model = open_clip.create_model(name)
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def write_pairs(folder, count, captions, size):
    """Photograph-like JPEGs: smooth structure and some noise, about the size of CC3M's."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)).resize(size, Image.BICUBIC)
        noisy = np.asarray(coarse).astype(int) + rng.integers(-12, 12, (size[1], size[0], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=88)
        texts = [" ".join([*rng.choice(TEXT.split(), rng.integers(6, 18)), str(i)]) for _ in range(captions)]
        lines.append(json.dumps({"file_name": f"{i:05d}.jpg", "captions": texts}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--method", default="gradcam")
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=(500, 375))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), arguments)


def prepare_pairs(scratch, arguments):
    """The model as the command loads it, and the pairs ready for it in batches: pixels and captions."""
    (scratch / "clip").mkdir()
    save_model(arguments.model, scratch / "clip")
    write_pairs(scratch / "pairs", arguments.pairs, arguments.captions, arguments.size)
    tower = load_tower(f"local-dir:{scratch / 'clip'}", device=arguments.device, precision=arguments.precision)
    if arguments.compile:
        tower.compile()
    lines = [json.loads(line) for line in (scratch / "pairs" / "metadata.jsonl").read_text().splitlines()]
    seen = [see((scratch / "pairs" / line["file_name"]).read_bytes(), tower, "squash", 1)[0][0] for line in lines]
    pixels = torch.from_numpy(np.stack(seen)).split(arguments.batch)
    captions = [line["captions"][0] for line in lines]
    return tower, pixels, [captions[i : i + arguments.batch] for i in range(0, len(captions), arguments.batch)]


def run_peer(tower, pixels, texts, size):
    """pytorch-grad-cam over some images, ``size`` a call, with a full backward pass; how many they were."""
    tower.model.requires_grad_(True)  # as a model is loaded; it fails on frozen parameters
    with GradCAM(ImageTower(tower.model), [tower.layer.module], reshape_transform=tower.to_grid) as cam:
        for images, own in zip(pixels.split(size), texts.split(size), strict=True):
            cam(tower.normalise(images), [Cosine(text) for text in own])
    tower.model.requires_grad_(False)
    tower.model.zero_grad(set_to_none=True)
    return len(pixels)


def measure(scratch, arguments):
    tower, pixels, captions = prepare_pairs(scratch, arguments)
    texts = [tower.encode_texts(each) for each in captions]
    synchronise = torch.cuda.synchronize if arguments.device.startswith("cuda") else lambda: None

    def forward():
        with (
            torch.inference_mode(),
            torch.autocast(tower.device.type, torch.bfloat16, enabled=tower.precision == "bf16"),
        ):
            for batch in pixels:
                tower.encode_images(tower.normalise(batch))
        synchronise()
        return arguments.pairs

    def maps():
        for batch, captions in zip(pixels, texts, strict=True):
            saliency_maps(tower, batch, captions, method=arguments.method)[0].cpu()
        return arguments.pairs

    def maps_and_texts():
        for batch, own in zip(pixels, captions, strict=True):
            saliency_maps(tower, batch, tower.encode_texts(own), method=arguments.method)[0].cpu()
        return arguments.pairs

    stages = {}

    def command(name, captions="first", a_look=pairs_of_build.CAPTIONS_A_LOOK):
        pairs_of_build.CAPTIONS_A_LOOK = a_look
        shutil.rmtree(scratch / "maps", ignore_errors=True)
        options = BuildOptions(
            str(scratch / "pairs"),
            scratch / "maps",
            clip=f"local-dir:{scratch / 'clip'}",
            batch_size=arguments.batch,
            workers=arguments.workers,
            precision=arguments.precision,
            compile=arguments.compile,
            device=arguments.device,
            method=arguments.method,
            captions=captions,
        )
        stages[name] = Stages()
        build_saliency(options, quiet=True, stages=stages[name])
        return arguments.pairs

    ways = {"forward pass": forward, "maps": maps, "maps and texts, the model only": maps_and_texts}
    ways["whole command"] = lambda: command("whole command")
    if arguments.captions > 1:
        ways |= {
            ONE_LOOK: lambda: command(ONE_LOOK, "all"),
            LOOK_EACH: lambda: command(LOOK_EACH, "all", 1),
        }
    if not arguments.skip_peer:
        some = (pixels[0][:PEER_IMAGES], texts[0][:PEER_IMAGES])
        ways |= {
            "pytorch-grad-cam, an image a call": lambda: run_peer(tower, *some, 1),
            "pytorch-grad-cam, a batch": lambda: run_peer(tower, *some, PEER_IMAGES),
        }
    rates = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            count = run()
            # the command's own clock starts when its model is loaded, as it is for the others
            seconds = stages[name].wall if name in stages else time.perf_counter() - started
            rates[name].append(count / seconds)
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    report(arguments, tower, medians, stages)


def report(arguments, tower, rates, stages):
    hardware = (
        torch.cuda.get_device_name() if tower.device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(
        f"{arguments.model}, {tower.precision} trunk, batch {arguments.batch}, {arguments.pairs} pairs, {hardware}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; median of {arguments.rounds} rounds in turns"
    )
    for name, rate in rates.items():
        print(f"{name:34s} {rate:8.2f} images/s")
    maps, model = rates["maps"], rates["maps and texts, the model only"]
    print(f"maps, of a forward pass            {maps / rates['forward pass']:8.2f}")
    print(f"whole command, of the model only   {rates['whole command'] / model:8.2f}")
    for name in [name for name in rates if name.startswith("all captions")]:
        print(f"{name}: {rates['whole command'] / rates[name]:.2f} times the cost of one caption an image")
    for name in [name for name in rates if name.startswith("pytorch")]:
        print(f"maps, times {name.removeprefix('pytorch-grad-cam, '):22s} {maps / rates[name]:8.2f}")
    for name, last in stages.items():
        print(f"{name}, last round:", *(f"{stage} {seconds:.2f} s" for stage, seconds in last.seconds.items()))


if __name__ == "__main__":
    main()
