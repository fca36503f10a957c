"""What an evaluation learns from and what it is tested on: two parts, whose classes carry the same numbers.

What is held out follows from the seed alone, so that every encoder sees the same. A source is opened when the first
protocol asks for it, and features of a frozen encoder are computed once for all protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pipelines.commandline.terminal import warn
from pipelines.errors import UserError
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import Features, compute_features
from pipelines.evaluate.options import EvaluateOptions
from pipelines.progress import progress_bar
from pipelines.sources.formats import is_built_in
from pipelines.sources.random_access import open_images, open_videos
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape
from pipelines.views.duplicates import Hashes
from pipelines.views.labelled import Labelled, open_labelled, unlabelled

BACKGROUND, OBJECT = "background", "object"
_FEW = 4
_SMALL = 64  # pixels, of images that are read to be hashed alone


class Parts:
    """A training part, None where nothing is learned, a test part, and the names of the classes of both."""

    def __init__(
        self,
        train: Labelled | None,
        test: Labelled,
        names: list[str],
        options: EvaluateOptions,
        *,
        masks: bool = False,
        quiet: bool = False,
    ) -> None:
        self.train, self.test, self.names, self.masks = train, test, names, masks
        self._options, self._quiet = options, quiet
        self._trained: dict[int, Labelled] = {}
        self._identities: dict[int | None, str] = {}
        self._encoder: Encoder | None = None
        self._features: dict[tuple[str, int], Features] = {}
        self._hashes: dict[tuple[str, int], Hashes] = {}

    def part(self, seed: int) -> Labelled:
        """The training images that are used with a seed: all, or the share --label-fraction of them."""
        assert self.train is not None
        key, fraction = self._key(seed), self._options.label_fraction
        if key not in self._trained:
            self._trained[key] = self.train if key < 0 else self.train.share(fraction, seed)
        return self._trained[key]

    def some(self, count: int, options: EvaluateOptions) -> Parts:
        """So many of the images of both parts, evenly spaced and four of each part at least; of frames the first."""
        if self.train is None:
            chosen = np.arange(len(self.test)) < max(count, _FEW)
            return Parts(None, self.test.select(chosen), self.names, options, masks=self.masks, quiet=self._quiet)
        share = count / (len(self.train) + len(self.test))
        train, test = (part.spread(max(round(share * len(part)), _FEW)) for part in (self.train, self.test))
        return Parts(train, test, self.names, options, masks=self.masks, quiet=self._quiet)

    def __len__(self) -> int:
        """Images of both parts."""
        return len(self.test) + (0 if self.train is None else len(self.train))

    def decided_by(self, seed: int) -> dict[str, Any]:
        """What a finished cell follows from here, as plain values."""
        test: dict[str, Any] = {"test": self._identity(None, self.test)}
        if len(self.tests) > 1:
            test["clips"] = len(self.tests)
        if self.train is None:
            return test
        return {"train": self._identity(self._key(seed), self.part(seed)), **test, "classes": self.names}

    def train_features(self, encoder: Encoder, seed: int) -> Features:
        """The features of the training images that are used with a seed. Raises UserError."""
        return self._features_of(encoder, ("train", self._key(seed)), self.part(seed))

    @cached_property
    def tests(self) -> list[Labelled]:
        """The test part, once for each clip that is seen of a video: evenly spaced from its beginning to its end."""
        clip, count = self.test.clip, self._options.clips
        if clip is None or count == 1:
            return [self.test]
        return [replace(self.test, clip=replace(clip, place=(number, count))) for number in range(count)]

    def test_features(self, encoder: Encoder) -> list[Features]:
        """The features of the test images, for each of :attr:`tests`. Raises UserError."""
        return [self._features_of(encoder, ("test", number), part) for number, part in enumerate(self.tests)]

    def hashes(self, part: Literal["train", "test"], seed: int) -> Hashes:
        """What the images of the test part, or those used with a seed, look like: as seen already, or read now."""
        key = (part, self._key(seed) if part == "train" else 0)
        if key not in self._hashes:
            chosen = self.part(seed) if part == "train" else self.test
            self._hashes[key] = hash_part(chosen, self._options, self._quiet)
        return self._hashes[key]

    def facts(self, seed: int) -> dict[str, Any]:
        """What the result says of the images."""
        labels = self.test.labels
        facts: dict[str, Any] = {
            "train_images": 0 if self.train is None else len(self.part(seed).labels),
            "test_images": len(labels),
            "classes": len(self.names),
            "chance": None,
        }
        if self.train is None:
            return {"test": self.test.source.name, **facts}
        if not self.masks:
            facts["chance"] = float(np.bincount(labels).max() / len(labels))
        return facts

    def _key(self, seed: int) -> int:
        return -1 if self._options.label_fraction == 1 else seed

    def _identity(self, key: int | None, part: Labelled) -> str:
        if key not in self._identities:
            self._identities[key] = part.identity_with_masks() if self.masks else part.identity()
        return self._identities[key]

    def _features_of(self, encoder: Encoder, key: tuple[str, int], part: Labelled) -> Features:
        if encoder is not self._encoder:
            self._encoder, self._features = encoder, {}
        if key not in self._features:
            at_once, workers = self._options.batch_size, self._options.workers
            first_clip = key[0] == "train" or key[1] == 0
            hashes: list[Hashes] | None = None
            if first_clip and key not in self._hashes and is_hashed(part, self._options):
                hashes = []
            self._features[key] = compute_features(
                encoder, part, batch_size=at_once, workers=workers, quiet=self._quiet, hashes=hashes
            )
            if hashes is not None:
                self._hashes[key] = Hashes.joined(hashes)
        return self._features[key]


def is_hashed(part: Labelled, options: EvaluateOptions) -> bool:
    """Whether near-duplicates of a part's images are looked for: not of built-in scenes, which are drawn."""
    return options.leaks != "off" and not is_built_in(part.source.name)


def hash_part(part: Labelled, options: EvaluateOptions, quiet: bool) -> Hashes:
    """What the images of a part look like, read for this alone; what can't be read is left out."""
    loader = part.batches((_SMALL, _SMALL), options.batch_size, workers=options.workers, greys=True)
    name = f"near-duplicates: {part.source.name}"
    batches = progress_bar(loader, name=name, unit="batches", part=True, quiet=quiet)
    return Hashes.joined([Hashes.of(batch.indices, batch.greys) for batch in batches if len(batch.indices)])


class Data:
    """The sources of one evaluation, each opened when the first protocol asks for it. Raises UserError then."""

    def __init__(self, options: EvaluateOptions, clip: ClipShape | None = None, *, quiet: bool = False) -> None:
        self.options, self.clip, self.quiet = options, clip, quiet

    @cached_property
    def labelled(self) -> Parts:
        """Images, or clips, with a class each."""
        return Parts(*open_data(self.options, self.clip), self.options, quiet=self.quiet)

    @cached_property
    def masked(self) -> Parts:
        """Images with a true mask each, of the classes that the masks show: the first one is the background."""
        train, test, names = open_masked(self.options, self.clip)
        names = [BACKGROUND, *names] if names else [BACKGROUND, OBJECT]
        return Parts(train, test, names, self.options, masks=True, quiet=self.quiet)

    @cached_property
    def frames(self) -> Parts:
        """What is tested alone, where nothing is learned: frames of videos with true masks."""
        source = open_test(self.options)
        if not source.has_masks:
            raise UserError(f"{source.name} has no masks: put NAME_mask.png next to every frame NAME.jpg")
        return Parts(None, unlabelled(source), [], self.options, masks=True, quiet=self.quiet)

    def some(self, count: int, options: EvaluateOptions) -> Data:
        """So many images of everything that was opened, for an evaluation with ``options``."""
        small = Data(options, self.clip, quiet=self.quiet)
        opened = {name: parts.some(count, options) for name, parts in vars(self).items() if isinstance(parts, Parts)}
        vars(small).update(opened)
        return small

    def told(self) -> Parts:
        """Of what was opened that which the result describes."""
        opened: dict[str, Parts] = vars(self)
        return next(opened[name] for name in ("labelled", "masked", "frames") if name in opened)


def open_data(options: EvaluateOptions, clip: ClipShape | None = None) -> tuple[Labelled, Labelled, list[str]]:
    """The training part, the test part, and the names of the classes that both are numbered by. Raises UserError.

    With ``clip`` the sources are of videos.
    """
    source = open_images(options) if clip is None else open_videos(options)
    warn(source.warnings)
    train, names = open_labelled(source)
    train, test = _parts(
        options, train, lambda other: _renumbered(*open_labelled(other), names), videos=clip is not None
    )
    if len(names) == 1:
        raise UserError(f"{options.source}: all images are of one class, {names[0]}: a probe needs at least two")
    return replace(train, clip=clip), replace(test, clip=clip), names


def _renumbered(test: Labelled, test_names: list[str], names: list[str]) -> Labelled:
    """The test part numbered as the training part, whose classes are ``names``: the same name is the same class."""
    unknown = [name for name in test_names if name not in names]
    if unknown:
        raise UserError(
            f"--test {test.source.name} has classes without a training image, first: {', '.join(unknown[:5])}"
        )
    return replace(test, labels=np.asarray([names.index(name) for name in test_names], np.int64)[test.labels])


def open_masked(options: EvaluateOptions, clip: ClipShape | None = None) -> tuple[Labelled, Labelled, list[str]]:
    """As :func:`open_data` for sources with true masks; without labels, or if they are not wanted, of one class.

    The names are empty then, and all labels 0. Raises UserError.
    """
    source, videos = open_images(options) if clip is None else open_videos(options), clip is not None
    if source.labels is not None and options.segment_classes:
        train, names = open_labelled(source)
        train, test = _parts(options, train, lambda other: _renumbered(*open_labelled(other), names), videos=videos)
    else:
        names = []
        train, test = _parts(options, unlabelled(source), unlabelled, videos=videos)
    for part in (train, test):
        if not part.source.has_masks:
            raise UserError(
                f"{part.source.name} has no masks: name them in a column mask_file_name, or put NAME_mask.png beside "
                "NAME.jpg"
            )
    return replace(train, clip=clip), replace(test, clip=clip), names


def open_test(options: EvaluateOptions, *, videos: bool = False) -> Source:
    """What a protocol without training is judged on: ``--test`` if it is given, else the source. Raises UserError."""
    opened = open_videos if videos else open_images
    if options.test is None:
        return opened(options)
    return opened(replace(options, split=None), spec=options.test, limit=options.test_limit)


def _parts(
    options: EvaluateOptions, train: Labelled, opened: Callable[[Source], Labelled], *, videos: bool = False
) -> tuple[Labelled, Labelled]:
    """The training part and the test part, which is held out or ``--test``. UserError if one is empty."""
    if options.test is None:
        train, test = train.divide(options.test_fraction, options.seed)
    else:
        test = opened(open_test(options, videos=videos))
    counts = len(train.labels), len(test.labels)
    if min(counts) == 0:
        raise UserError(f"{options.source}: {counts[0]} training and {counts[1]} test images; both are needed")
    return train, test
