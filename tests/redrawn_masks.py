"""How well a hypergradient of MLO-MAE foretells the loss of level 3 when masks are drawn anew after T has moved.

The setting is the planted task of ``tests.planted``: a nano model in double precision, a gate as T, and a head that has
learned for some steps. ``torch.Tensor.float`` must stand for ``double``, for the library computes losses in float32.
T moves both ways along random directions of its parameters; the lower levels then make the
same steps on the same images. Both sides share their noise, so they differ in the masks that T's move has changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mae.mask_learners.gate import Gate
from mae.masks.masking import Masking
from mae.multilevel.masker import GridMasker
from mae.multilevel.mlo import LEVELS, Inputs
from mae.multilevel.mlo_training import LabelledImages, MultilevelTraining
from mae.multilevel.nested import Point
from mae.multilevel.settings import MultilevelSettings
from mae.training.settings import TrainingSettings
from tests.planted import PATTERNS, scene_batches
from tests.tiny_mae import nano

PREDICTIONS = 4
"""Draws that are averaged for the prediction to one for the truth, which takes as long for all directions."""

Draw = dict[str, list[Inputs]]
"""The batches of an outer step; the noise of level 1's is what masks are drawn with."""


@dataclass(frozen=True)
class Foretold:
    """Changes of level 3's loss along directions of T: as predicted and as they were, a row for each half of draws."""

    predicted: Tensor
    """[2, directions]"""
    true: Tensor
    """[2, directions]"""

    @property
    def correlation(self) -> float:
        """Of prediction and truth, both averaged over all draws."""
        return _correlation(self.predicted.mean(0), self.true.mean(0))

    @property
    def ratio(self) -> float:
        """Root mean square of the true changes over that of the predicted ones."""
        return float(self.true.mean(0).norm() / self.predicted.mean(0).norm())

    @property
    def repeated(self) -> tuple[float, float]:
        """Correlations of the two halves: of the predictions, and of the truths."""
        return _correlation(*self.predicted), _correlation(*self.true)


def trained(
    seed: int,
    path: str,
    *,
    exploration: float,
    spread: float = 10.0,
    batch: int = 64,
    steps: int = 40,
    unroll: tuple[int, int] = (2, 1),
) -> MultilevelTraining:
    """A run in double precision after ``steps`` outer steps in which T stayed as it was.

    T's last layer is multiplied by ``spread``: with 10 its scores lie between about 0.1 and 0.9, as those of a trained
    T; with 1 near 0.5, as at the start.
    """
    torch.manual_seed(seed)
    model = nano(norm_pix=False).double()
    run = MultilevelTraining(
        model,
        PATTERNS,
        Masking(mask_ratio=0.75),
        TrainingSettings(epochs=1, batch_size=batch, blr=2e-3 * 256 / batch, warmup_epochs=0.05, seed=seed),
        MultilevelSettings(
            path=path, head_rate=1e-2, masker_rate=1e-30, exploration=exploration, radius=1e-2, unroll=unroll
        ),
        2 * steps,
        masker=GridMasker(Gate(16, 16, 1, positions=True), model.grid).double(),
    )
    with torch.no_grad():
        run.masker.network.score.weight.mul_(spread)
    run.head.double()
    run._point = run.solver.start(run._parameters())
    scenes = scene_batches(seed, batch)
    for _ in range(steps):
        run.update({name: [scenes() for _ in range(count)] for name, count in run.batches_per_step.items()})
    return run


def foretell(run: MultilevelTraining, *, directions: int = 24, draws: int = 8, move: float = 0.3) -> Foretold:
    """Measure on unseen scenes, over two halves of ``draws``; T moves by ``move`` times the norm of its parameters."""
    scenes = scene_batches(run.settings.seed, run.settings.batch_size, stream=1)
    batches = {name: [scenes() for _ in range(count)] for name, count in run.batches_per_step.items()}
    generator = torch.Generator().manual_seed(run.settings.seed)
    size = torch.stack([value.norm() for value in run._point["masker"].values()]).norm()
    ways = []
    for _ in range(directions):
        way = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in run._point["masker"].items()}
        length = torch.stack([value.norm() for value in way.values()]).norm()
        ways.append({k: v * move * size / length for k, v in way.items()})
    predicted, true = torch.zeros(2, directions, dtype=torch.float64), torch.zeros(2, directions, dtype=torch.float64)
    for number in range(draws):
        found = [
            run.solver.hypergradient(run._point, _drawn(run, batches, generator), run.step) for _ in range(PREDICTIONS)
        ]
        gradient = {k: torch.stack([each[k] for each in found]).mean(0) for k in found[0]}
        inputs = _drawn(run, batches, generator)
        for i, way in enumerate(ways):
            change = [run.solver.upper_loss(_moved(run._point, way, sign), inputs, run.step) for sign in (1, -1)]
            true[number % 2, i] += change[0] - change[1]
            predicted[number % 2, i] += 2 * sum((gradient[k] * v).sum() for k, v in way.items())
    return Foretold(predicted / (draws / 2), true / (draws / 2))


def _drawn(run: MultilevelTraining, batches: dict[str, list[LabelledImages]], generator: torch.Generator) -> Draw:
    """The same images with masks drawn by new noise."""
    inputs = {name: [run._inputs(name, i, batch) for i, batch in enumerate(batches[name])] for name in LEVELS}
    return inputs | {
        "mae": [each._replace(noise=torch.rand(each.noise.shape, generator=generator)) for each in inputs["mae"]]
    }


def _moved(point: Point, way: dict[str, Tensor], sign: int) -> Point:
    return point | {"masker": {k: v + sign * way[k] for k, v in point["masker"].items()}}


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
