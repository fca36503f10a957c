"""What an evaluation learns from and what it is tested on: two parts, whose classes carry the same numbers.

What is held out follows from the seed alone, so that every encoder sees the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mae.splits import hold_out
from pipelines.commandline.terminal import warn
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.sources.random_access import open_images, open_videos
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape
from pipelines.views.labelled import Labelled, open_labelled, unlabelled


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
        raise UserError(f"{options.source}: all images are of one class, {names[0]}: there is nothing to tell apart")
    return replace(train, clip=clip), replace(test, clip=clip), names


def _renumbered(test: Labelled, test_names: list[str], names: list[str]) -> Labelled:
    """The test part numbered as the training part, whose classes are ``names``: the same name is the same class."""
    unknown = [name for name in test_names if name not in names]
    if unknown:
        raise UserError(
            f"--test {test.source.name} has classes without a training image, first: {', '.join(unknown[:5])}"
        )
    return replace(test, labels=np.asarray([names.index(name) for name in test_names], np.int64)[test.labels])


def open_masked(options: EvaluateOptions) -> tuple[Labelled, Labelled, list[str]]:
    """As :func:`open_data` for sources with true masks; without labels, or if they are not wanted, of one class.

    The names are empty then, and all labels 0. Raises UserError.
    """
    source = open_images(options)
    if source.labels is not None and options.segment_classes:
        train, names = open_labelled(source)
        train, test = _parts(options, train, lambda other: _renumbered(*open_labelled(other), names))
    else:
        names = []
        train, test = _parts(options, unlabelled(source), unlabelled)
    for part in (train, test):
        if not part.source.has_masks:
            raise UserError(
                f"{part.source.name} has no masks: segment needs a column mask_file_name, or NAME_mask.png beside "
                "NAME.jpg"
            )
    return train, test, names


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
        held = hold_out(train.labels, options.test_fraction, options.seed)
        train, test = train.select(~held), train.select(held)
    else:
        test = opened(open_test(options, videos=videos))
    if min(len(train), len(test)) == 0:
        raise UserError(f"{options.source}: {len(train)} training and {len(test)} test images; both are needed")
    return train, test
