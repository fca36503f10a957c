"""Cut-graph Grad-CAM beside a bare forward pass and pytorch-grad-cam as its users run it, in one run.

    python benchmarks/bench_gradcam.py [--model ViT-B-16] [--batch 8] [--rounds 5]

Random weights, the same images and texts for all three, in turns; prints pairs/s (median of the rounds) and ratios.
"""

import argparse
import platform
import statistics
import time

import open_clip
import torch
from pytorch_grad_cam import GradCAM

from saliency.methods import saliency_maps
from saliency.towers import Tower


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = open_clip.create_model(arguments.model)
    model.visual.preprocess_cfg = model.visual.preprocess_cfg | {"size": 224}
    tower = Tower(model, open_clip.get_tokenizer(arguments.model))
    pixels = torch.randint(0, 256, (arguments.batch, 3, 224, 224), dtype=torch.uint8)
    texts = tower.encode_texts([f"a photo of thing {i}" for i in range(arguments.batch)])
    inputs = tower.normalise(pixels)

    def forward():
        with torch.inference_mode():
            tower.encode_images(inputs)

    def peer():
        model.requires_grad_(True)
        with GradCAM(ImageTower(model), [tower.layer.module], reshape_transform=tower.to_grid) as cam:
            cam(inputs, [Cosine(text) for text in texts])
        model.requires_grad_(False)

    ways = {
        "forward pass": forward,
        "cut-graph Grad-CAM": lambda: saliency_maps(tower, pixels, texts),
        "pytorch-grad-cam": peer,
    }
    seconds = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    threads = torch.get_num_threads()
    machine = platform.processor() or platform.machine()
    print(f"{arguments.model}, batch {arguments.batch}, {machine}, {threads} threads, fp32, torch {torch.__version__}")
    print(f"median of {arguments.rounds} rounds")
    for name, median in medians.items():
        share = medians["forward pass"] / median
        print(f"{name:20s} {arguments.batch / median:7.2f} pairs/s  {share:5.2f} of a forward pass")
    print(f"ratio to pytorch-grad-cam: {medians['pytorch-grad-cam'] / medians['cut-graph Grad-CAM']:.2f}")


if __name__ == "__main__":
    main()
