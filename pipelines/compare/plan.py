"""What ``compare`` compares: arms, seeds, and what all of them share; from a YAML file or from flags.

Every arm is a handful of ``pretrain``'s options on top of the common ones. Everything is checked, for all arms and
seeds, before anything runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.commandline.effects import check_effects
from pipelines.commandline.option_text import option_values, parse_seeds, words_to_options
from pipelines.commandline.yaml_text import read_yaml
from pipelines.compare.arms import built_in_arms, usual_arms
from pipelines.compare.options import CompareOptions
from pipelines.errors import UserError, user_errors
from pipelines.evaluate.evaluate import EvaluateOptions
from pipelines.evaluate.table import PROTOCOLS
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.settings import settings_of
from saliency.shown import one_line

UNTRAINED = "untrained"
"""The name of the reference arm that every seed has: the weights that all of its arms start from."""

_SECTIONS = (
    *("source", "saliency", "baseline", "seeds", "power", "margin", "limits", "label_fractions"),
    *("pretrain", "evaluate", "arms"),
)
_SHARED = "all arms share it; give it under pretrain"
_NOT_COMMON = {
    "source": "give it at the top, or to an arm",
    "out": "every arm and seed has a folder of its own",
    "seed": "give seeds at the top",
    "resume": "unfinished runs always resume",
    "saliency": "give it at the top, or to an arm",
}
_NOT_OF_AN_ARM = {name: why for name, why in _NOT_COMMON.items() if name not in ("source", "saliency")} | dict.fromkeys(
    ("image_column", "caption_column", "captions", "limit", "split", "allow_outside", "workers", "device"), _SHARED
)
_NOT_OF_EVALUATE = {
    "run": "every run is judged",
    "out": "every run has a file of its own",
    "seed": "it is the run's",
    "beside": "every arm is evaluated with the others",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True)
class ComparePlan:
    """Arms by name with the options that set them apart, the seeds, and what is common to all."""

    source: str
    arms: dict[str, dict[str, Any]]
    baseline: str
    seeds: tuple[int, ...] = (0, 1, 2)
    saliency: str | None = None
    pretrain: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    power: float | None = None
    """A difference, in percentage points, for which the report says how many seeds show it."""
    margin: float | None = None
    """Within how many percentage points arms are tested for equality."""
    limits: tuple[int, ...] = ()
    """Numbers of pretraining images for further runs of every arm and seed: a learning curve."""
    label_fractions: tuple[float, ...] = ()
    """Shares of the labelled training images, 0..1, by which every run is judged once more: another curve."""

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise ValueError("arms: a comparison needs at least two")
        for name in self.arms:
            if not _NAME.fullmatch(name) or name == UNTRAINED:
                raise ValueError(f"arms: {name!r} can't be a name; use letters, digits, . _ - (and not {UNTRAINED!r})")
        for name in ("power", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 100:
                raise ValueError(f"{name}: {value:g} is not a number of percentage points above 0 and up to 100")
        self._check_curves()
        if self.baseline not in self.arms:
            raise ValueError(f"baseline: {self.baseline!r} is not one of the arms: {', '.join(self.arms)}")

    def _check_curves(self) -> None:
        limit, fraction = self.pretrain.get("limit"), self.evaluate.get("label_fraction", 1.0)
        for each in self.limits:
            if each < 1 or (limit is not None and each >= limit):
                raise ValueError(f"limits: {each} is not a number of images from 1 to below the limit of all runs")
        for share in self.label_fractions:
            if not 0 < share < fraction:
                raise ValueError(f"label_fractions: {share:g} does not lie between 0 and the {fraction:g} of all runs")

    def check_shared(self) -> None:
        """ValueError for an option that all arms share and none uses, and for one of the evaluation without effect.

        Other mistakes are told of when the arms are checked, since perhaps not all of them are to run.
        """
        try:
            every = [self._asked(arm, self.seeds[0], Path("run")) for arm in self.arms]
            judged = self.evaluate_options(self.seeds[0], Path("run"))
        except ValueError:
            return
        if any(options.strategy is None for options in every):
            return
        maps = {} if self.saliency is None else {"saliency": "saliency"}
        for name, place in (maps | dict.fromkeys(self.pretrain, "pretrain")).items():
            complaints = [_complaint(options, name) for options in every]
            if all(complaints):
                raise ValueError(f"{place}: {complaints[0]}; no other arm uses it")
        for name in self.evaluate:
            if complaint := _complaint(judged, name):
                raise ValueError(f"evaluate: {complaint}")
        if self.label_fractions and (complaint := _complaint(judged, "label_fraction")):
            raise ValueError(f"label_fractions: {complaint}")

    def narrowed(self, asked: CompareOptions) -> ComparePlan:
        """The plan with some of its arms, other seeds or other statistics. UserError for what it can't be."""
        with user_errors():
            arms = self.arms | _arms_of_scores(asked.masks)
            names = list(arms) if asked.arms is None else _names(asked.arms)
            for name in names:
                if name not in arms:
                    raise ValueError(f"--arms: {name!r} is not one of: {', '.join(arms)}")
            kept = {name: options for name, options in arms.items() if name in names}
            given: dict[str, Any] = {"power": asked.power, "margin": asked.margin}
            given |= {"seeds": None if asked.seeds is None else _seeds(asked.seeds)}
            return replace(self, arms=kept, **{name: value for name, value in given.items() if value is not None})

    def pretrain_options(self, arm: str, seed: int, out: Path) -> PretrainOptions:
        """What the run of an arm and seed is asked for. ValueError, naming the arm, for a bad value."""
        try:
            options = self._asked(arm, seed, out)
            settings = settings_of(options)
            check_effects(options, self.arms[arm])
        except ValueError as error:
            raise ValueError(f"arms: {arm}: {error}") from error
        strategy, masked = options.masking_name, "maps" in settings.strategy.needs
        mapped = masked or options.weighs_by_maps
        if mapped and options.saliency is None:
            what = f"{strategy} masks need" if masked else "saliency_weight needs"
            raise ValueError(f"arms: {arm}: {what} maps; give saliency: MAPS (--saliency)")
        return replace(options, masking=strategy, saliency=options.saliency if mapped else None)

    def limited_options(self, arm: str, seed: int, out: Path, limit: int, images: int) -> PretrainOptions:
        """What the run of an arm and seed is asked for with ``limit`` of the ``images`` of the others.

        It takes about as many steps as those, in more epochs. ValueError if so few images make no step.
        """
        whole = self.pretrain_options(arm, seed, out)
        steps, fewer = (count // (whole.batch_size * whole.accumulate) for count in (images, limit))
        if limit >= images or fewer == 0:
            raise ValueError(
                f"limits: {limit} must be below the {images} images that there are, and at least one step's "
                f"{whole.batch_size * whole.accumulate}"
            )
        epochs = max(1, round(whole.epochs * steps / fewer))
        warmup = None if whole.warmup_epochs is None else whole.warmup_epochs * epochs / whole.epochs
        every = whole.checkpoint_every or max(1, steps)
        return replace(whole, limit=limit, epochs=epochs, warmup_epochs=warmup, checkpoint_every=every)

    def fraction_options(self, options: EvaluateOptions, fraction: float) -> EvaluateOptions:
        """How a run is judged by a share of the labels: by the protocols that learn, into a file of its own."""
        protocols = tuple(name for name in options.protocols if PROTOCOLS[name].learns)
        file = Path(options.run) / f"evaluation-labels-{fraction:g}.json"
        return replace(options, label_fraction=fraction, protocols=protocols, out=file)

    def _asked(self, arm: str, seed: int, out: Path) -> PretrainOptions:
        given: dict[str, Any] = {"source": self.source, "keep": 1, "saliency": self.saliency}
        return PretrainOptions(out=out, seed=seed, **given | self.pretrain | self.arms[arm])

    def evaluate_options(self, seed: int, run: Path) -> EvaluateOptions:
        """How a run is judged. ValueError for a bad value."""
        given: dict[str, Any] = {"source": self.source, "seed": seed, **self.evaluate}
        try:
            return EvaluateOptions(str(run), **given)
        except ValueError as error:
            raise ValueError(f"evaluate: {error}") from error


def read_plan(path: Path) -> ComparePlan:
    """The plan in a YAML file. UserError, one line that names the place, for anything it can't be."""
    content = read_yaml(path)
    try:
        return plan_from(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def asked_plan(options: CompareOptions) -> ComparePlan:
    """The plan in the file that was asked for, or of the options that stand in for one. UserError where both are."""
    judged = {"source": options.labelled, "test": options.test, "protocols": list(options.protocol)}
    evaluate = {name: value for name, value in judged.items() if value}
    if options.what.endswith((".yaml", ".yml")):
        if options.saliency is not None or evaluate or options.options:
            raise UserError(
                f"{options.what} is a plan: --saliency, --labelled, --test, --protocol and options after -- go into it"
            )
        return read_plan(Path(options.what)).narrowed(options)
    with user_errors():
        arms = usual_arms() if options.arms is None else _names(options.arms)
        own = _arms_of_scores(options.masks)
        content = {
            "source": options.what,
            "saliency": options.saliency,
            "arms": dict.fromkeys(arms) | own if own else arms,
            "seeds": options.seeds or 3,
            "power": options.power,
            "margin": options.margin,
            "pretrain": words_to_options(options.options),
            "evaluate": evaluate,
        }
        return plan_from(content)


def plan_from(content: Any) -> ComparePlan:
    """The plan that a mapping of the file's form holds. ValueError."""
    sections = _mapping("the plan", content)
    for name in sections:
        if name not in _SECTIONS:
            raise ValueError(f"unknown section {name!r}; there are: {', '.join(_SECTIONS)}")
    source, saliency = sections.get("source"), sections.get("saliency")
    if not isinstance(source, str) or not source:
        raise ValueError("source: say where the images are")
    if saliency is not None and not isinstance(saliency, str):
        raise ValueError("saliency: takes the folder of the maps, or the id of a published table")
    arms = _arms(sections.get("arms"))
    baseline = sections.get("baseline") or ("random" if "random" in arms else next(iter(arms), ""))
    plan = ComparePlan(
        source=source,
        arms=arms,
        baseline=str(baseline),
        seeds=_seeds(sections.get("seeds", 3)),
        saliency=saliency,
        power=_points("power", sections.get("power")),
        margin=_points("margin", sections.get("margin")),
        limits=_limits(sections.get("limits")),
        label_fractions=_fractions(sections.get("label_fractions")),
        pretrain=_options(PretrainOptions, "pretrain", sections.get("pretrain"), _NOT_COMMON),
        evaluate=_options(EvaluateOptions, "evaluate", sections.get("evaluate"), _NOT_OF_EVALUATE),
    )
    plan.check_shared()
    return plan


def _complaint(options: Any, name: str) -> str | None:
    try:
        check_effects(options, {name})
    except ValueError as error:
        return str(error)
    return None


def _seeds(value: Any) -> tuple[int, ...]:
    try:
        return parse_seeds(value)
    except ValueError as error:
        raise ValueError(f"seeds: {error}") from error


def _points(name: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name}: takes a number of percentage points, not {one_line(repr(value), 100)}")
    return value


def _limits(value: Any) -> tuple[int, ...]:
    """Numbers of images, ascending."""
    given = [] if value is None else value
    if not isinstance(given, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in given):
        raise ValueError(f"limits: takes a list of numbers of images, not {one_line(repr(value), 100)}")
    return tuple(sorted(set(given)))


def _fractions(value: Any) -> tuple[float, ...]:
    """Shares, ascending, of numbers or texts such as ``1 %``."""
    given, found = [] if value is None else value, set()
    for each in given if isinstance(given, list) else [None]:
        text = str(each).strip()
        try:
            found.add(float(text.removesuffix("%")) / (100 if text.endswith("%") else 1))
        except ValueError:
            shown = one_line(repr(value), 100)
            raise ValueError(f"label_fractions: takes a list of shares such as 0.01 or 10 %, not {shown}") from None
    return tuple(sorted(found))


def _arms_of_scores(masks: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """An arm for each ``FILE.py:NAME``, called NAME. ValueError if two have one name."""
    names = [each.rpartition(":")[2] for each in masks]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"--masks: {repeated[0]!r} is there twice; give one of them another name")
    return {name: {"masks": each} for name, each in zip(names, masks, strict=True)}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _arms(content: Any) -> dict[str, dict[str, Any]]:
    """Arms from a mapping of names to options, or a list of names; an arm without options is a built-in one."""
    if isinstance(content, list):
        _check_arm_names(content)
        repeated = [name for name, count in Counter(content).items() if count > 1]
        if repeated:
            raise ValueError(f"arms: {repeated[0]!r} is there twice")
        content = dict.fromkeys(content)
    arms, built_in = {}, built_in_arms()
    _check_arm_names(_mapping("arms", content))
    for name, options in content.items():
        if options is None and name not in built_in:
            raise ValueError(f"arms: {name!r} has no options, and is not one of: {', '.join(built_in)}")
        given = built_in[name] if options is None else options
        arms[name] = _options(PretrainOptions, f"arms: {name}", given, _NOT_OF_AN_ARM)
    return arms


def _check_arm_names(names: Iterable[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"arms: {one_line(repr(name), 100)} is no text; put the name in quotes")


def _options(kind: type[Any], place: str, content: Any, barred: Mapping[str, str]) -> dict[str, Any]:
    given = _mapping(place, {} if content is None else content)
    try:
        return option_values(kind, given, barred=barred, alias={"protocol": "protocols"})
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _mapping(place: str, content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{place}: takes names and values, not {found}")
    return content
