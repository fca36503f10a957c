"""Masks by anyone's scores: a Python file names a function, or a class with one method, that scores the patches.

What it asks for follows from the names of its parameters, :data:`GIVEN`. The patches of the highest scores are hidden,
as many as the mask ratio says; noise orders equal ones. ``nn.Module``s keep their state in checkpoints. The file is the
user's own code and runs as such: nothing here runs a file that a run folder brought along.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae.distributed import World
from mae.mask_learners.learner import Look
from mae.masks.masking import mask_from_priorities, top_ranks
from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder

GIVEN = ("images", "tokens", "grid", "noise", "progress")
"""The parameters there are: normalised ``images`` float32 [B, 3, H, W] or clips [B, 3, T, H, W]; ``tokens`` [B, N, D],
the embeddings of the patches without positions or gradients; the ``grid`` (rows, columns) or (slots, rows, columns);
``noise`` in [0, 1), [B, N], that follows from the seed; and the ``progress`` of the training, 0..1."""


class ScoresError(ValueError):
    """What the user's code gave is no score for every patch, or it failed; one line says which."""


@dataclass(frozen=True)
class CustomSettings:
    """Where the scores come from, in plain values."""

    masks: str
    """``FILE.py:NAME``."""
    sha256: str
    """Of the file."""


def file_and_name(masks: str) -> tuple[Path, str]:
    """``my_masks.py:Score`` as a file and the name in it. ValueError if it is none, or there is no such file."""
    place, colon, name = masks.rpartition(":")
    if not colon or not name.isidentifier() or not place.endswith(".py"):
        raise ValueError(f"--masks {masks!r} is not FILE.py:NAME, such as my_masks.py:Score")
    if not Path(place).is_file():
        raise ValueError(f"--masks {masks}: there is no file {place}")
    return Path(place), name


def file_hash(masks: str) -> str:
    """sha256 of the file. ValueError."""
    path = file_and_name(masks)[0]
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"--masks {masks}: {path} can't be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Scorer:
    """The user's function, or an instance of the user's class, with the parameters that it asks for."""

    masks: str
    call: Callable[..., Any]
    asks: tuple[str, ...]
    module: nn.Module | None

    def scores(self, given: Mapping[str, Any], count: int, patches: set[int]) -> Tensor:
        """Scores float32 [B, N] of ``count`` images, N one of ``patches``. ScoresError."""
        try:
            found = self.call(**{name: given[name] for name in self.asks})
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ScoresError(f"--masks {self.masks} failed with {line}") from error
        if not isinstance(found, Tensor):
            raise ScoresError(f"--masks {self.masks} gave a {type(found).__name__}, not a tensor of scores [B, N]")
        if found.ndim != 2 or found.shape[0] != count or found.shape[1] not in patches:
            wanted = " or ".join(str([count, number]) for number in sorted(patches))
            raise ScoresError(f"--masks {self.masks} gave scores of shape {list(found.shape)}, not {wanted}")
        return found.detach().float()


def load_scorer(masks: str) -> Scorer:
    """What ``FILE.py:NAME`` names, made anew. ValueError if it can't be used."""
    path, name = file_and_name(masks)
    found = getattr(_module(str(path.resolve()), file_hash(masks), masks), name, None)
    if found is None:
        raise ValueError(f"--masks {masks}: {path} has no {name}")
    try:
        found = found() if isinstance(found, type) else found
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"--masks {masks}: {name}() failed with {line}") from error
    module = found if isinstance(found, nn.Module) else None
    if not callable(found):
        raise ValueError(f"--masks {masks}: {name} can't be called; give a function, or a class with __call__")
    parameters = inspect.signature(found.forward if module is not None else found).parameters
    asks = tuple(each.name for each in parameters.values() if each.default is each.empty)
    if not asks or not set(asks) <= set(GIVEN):
        asked, known = ", ".join(asks) or "nothing", ", ".join(GIVEN)
        raise ValueError(f"--masks {masks}: {name} asks for {asked}; there are {known}")
    return Scorer(masks, found, asks, module)


@functools.lru_cache(8)
def _module(path: str, sha256: str, masks: str) -> Any:
    """The file as a module, run once for each content."""
    spec = importlib.util.spec_from_file_location(f"masks_{sha256[:16]}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"--masks {masks}: {path} can't be imported: {line}") from error
    return module


class CustomMasks:
    """Masks by a :class:`Scorer`: a :class:`mae.mask_learners.learner.MaskLearner` that learns nothing itself."""

    name = "custom"
    needs_saliency = needs_errors = False
    importance = None
    network = None

    def __init__(
        self, scorer: Scorer, embed: Callable[[Tensor], Tensor], settings: CustomSettings, device: torch.device | str
    ) -> None:
        self.scorer, self.embed, self.settings = scorer, embed, settings
        self.reads_model = "tokens" in scorer.asks
        self.loss, self.world = torch.zeros((), device=device), World()
        self._scores, self._wrong = 0, torch.zeros((), dtype=torch.int64, device=device)
        if scorer.module is not None:
            scorer.module.to(device)

    def masks(self, look: Look) -> Mask:
        """The masks of a batch. ScoresError."""
        return self.draw(look)

    @torch.no_grad()
    def draw(self, look: Look) -> Mask:
        """The masks of a batch. ScoresError."""
        patches, still = math.prod(look.grid), math.prod(look.still)
        uniform, ties = look.noise(2, patches)
        given: dict[str, Any] = {"images": look.images, "grid": look.grid, "noise": uniform, "progress": look.progress}
        if self.reads_model:
            given["tokens"] = self.embed(look.images).float()
        with torch.autocast(look.images.device.type, enabled=False):
            scores = self.scorer.scores(given, len(look.images), {patches, still})
        self._scores, self._wrong = (
            self._scores + scores.numel(),
            self._wrong + (~scores.isfinite()).sum().to(self._wrong.device),
        )
        if scores.device.type == "cpu":
            self._check()
        # Scores of one time slot are those of all.
        scores = look.on_mask_grid(scores.repeat(1, patches // scores.shape[1]))
        ranks = top_ranks(scores, ties[:, : scores.shape[1]].to(scores.device))
        return look.to_patches(mask_from_priorities(-ranks.float(), look.mask_ratio))

    def hear(self, look: Look, decoded: Tensor, errors: Tensor) -> None:
        """Not asked for."""

    def gather(self) -> None:
        """There are no gradients."""

    def apply(self, rate: float, stop: Tensor) -> None:
        """No step of its own."""

    def figures(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def _check(self) -> None:
        """ScoresError if a score so far was infinite or NaN. The host waits for a GPU here, so not at every step."""
        if wrong := int(self._wrong):
            which = f"{wrong} of {self._scores} scores that are infinite or NaN"
            raise ScoresError(f"--masks {self.scorer.masks} gave {which}")
        self._scores = 0

    def state(self) -> dict[str, Any]:
        """That of a module, for a checkpoint. ScoresError: of a training on a GPU, wrong scores are told here."""
        self._check()
        return {} if self.scorer.module is None else dict(self.scorer.module.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Undoes it."""
        if self.scorer.module is not None:
            self.scorer.module.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """The run folder has the file."""


def settings_from(asked: Mapping[str, Any]) -> CustomSettings:
    """The settings, once the file has shown that it can be used. ValueError."""
    if asked["masks"] is None:
        raise ValueError("--masking custom needs --masks FILE.py:NAME")
    load_scorer(asked["masks"])
    return CustomSettings(asked["masks"], file_hash(asked["masks"]))


def new_learner(asked: Mapping[str, Any], model: MaskedAutoencoder, device: torch.device) -> CustomMasks:
    """Masks by what ``asked["masks"]`` names, tried on two images of noise. ValueError, ScoresError."""
    settings = settings_from(asked)
    learner = CustomMasks(load_scorer(settings.masks), model.to(device).embed, settings, device)
    frames = (model.frames,) if hasattr(model, "frames") else ()
    images = torch.rand(2, 3, *frames, *model.image_size, generator=torch.Generator().manual_seed(0)).to(device)
    before = {name: value.clone() for name, value in learner.state().items()}
    learner.draw(Look(images, model.grid, 0.5, lambda times, numbers: torch.rand(times, 2, numbers, device=device)))
    learner.state()  # checks the scores
    learner.load_state(before)
    return learner
