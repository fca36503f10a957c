"""One arm at one seed: pretrained in a run folder of its own, then judged; what is finished is found, not done again.

The runs of a seed start from the same weights and see the same views in the same order, for both follow from the seed,
the epoch and the image alone (``pipelines.views.image_views``): they differ by their arm's options and nothing else.
The untrained encoder that ``evaluate`` puts beside a run has those very starting weights.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mae.training.checkpoints import list_checkpoints
from pipelines.commandline.effects import idle_options
from pipelines.compare.plan import ComparePlan
from pipelines.errors import UserError
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.pretrain.options import FREE_ON_RESUME, PretrainOptions, defaults_before
from pipelines.pretrain.pretrain import pretrain
from pipelines.pretrain.settings import settle_levels
from pipelines.run_folder import CONFIG, RunFolder
from saliency import __version__
from saliency.files import write_text_atomically

NEW, BEGUN, TRAINED, FINISHED = "new", "begun", "trained", "finished"

_FREE_OF_JUDGING = ("run", "out", "workers", "device", "allow_outside")


@dataclass(frozen=True)
class Unit:
    """An arm at a seed: what its run and its evaluation are asked for, and the ``record`` of what came out."""

    arm: str
    seed: int
    pretrain: PretrainOptions
    evaluate: EvaluateOptions
    record: Path
    limit: int | None = None
    """The number of images, where it is a point of a learning curve and no run of the comparison itself."""
    fractions: Mapping[float, EvaluateOptions] = field(default_factory=dict)
    """By share of the labels how it is judged once more."""

    @property
    def name(self) -> str:
        """Of this unit, for people."""
        return f"{self.arm}, seed {self.seed}" + ("" if self.limit is None else f", {self.limit} images")

    def on(self, device: str) -> Unit:
        """The unit on this device."""
        judged = {fraction: replace(options, device=device) for fraction, options in self.fractions.items()}
        pretrained, evaluated = replace(self.pretrain, device=device), replace(self.evaluate, device=device)
        return replace(self, pretrain=pretrained, evaluate=evaluated, fractions=judged)


@dataclass(frozen=True)
class UnitOutcome:
    """What became of a unit: its record, or in ``failed`` one line that says why not; ``seconds`` it took now."""

    unit: Unit
    record: dict[str, Any] | None
    seconds: float
    failed: str | None = None
    trace: str | None = None
    """The traceback, where the failure is a bug."""


def units_of(plan: ComparePlan, out: Path, images: Mapping[str, int] | None = None) -> list[Unit]:
    """Every arm at every seed, the seeds of a comparison side by side, then those of its curves.

    ``images`` is how many a run of each arm learns from; only a plan with ``limits`` asks for it. UserError for a bad
    value.
    """
    units = []
    try:
        for seed, limit in itertools.product(plan.seeds, (None, *plan.limits)):
            for arm in plan.arms:
                name = f"seed-{seed}" if limit is None else f"seed-{seed}-images-{limit}"
                run, record = out / "runs" / arm / name, out / "records" / arm / f"{name}.json"
                if limit is None:
                    options = settle_levels(plan.pretrain_options(arm, seed, run))
                else:
                    options = settle_levels(plan.limited_options(arm, seed, run, limit, (images or {})[arm]))
                judged = plan.evaluate_options(seed, run)
                shares = plan.label_fractions if limit is None else ()
                fractions = {share: plan.fraction_options(judged, share) for share in shares}
                units.append(Unit(arm, seed, options, judged, record, limit, fractions))
    except ValueError as error:
        raise UserError(error) from error
    return sorted(units, key=lambda unit: unit.limit is not None)


def state_of(unit: Unit) -> str:
    """How far a unit is: NEW, BEGUN, TRAINED or FINISHED. UserError if its folder was started with other settings."""
    folder = unit.pretrain.out
    if not (folder / CONFIG).exists():
        return NEW
    config = RunFolder(folder).config()
    then, now = defaults_before() | config["options"], _plain(unit.pretrain)
    free = FREE_ON_RESUME.union(name for name, _ in idle_options(unit.pretrain))
    differing = [
        f"{name} {then.get(name)!r} → {now.get(name)!r}"
        for name in sorted((set(then) | set(now)) - free)
        if _json(then.get(name)) != _json(now.get(name))
    ]
    if differing:
        raise UserError(
            f"{unit.name}: {folder} was made with other settings ({'; '.join(differing)[:300]}); give another --out, "
            "or delete that folder"
        )
    checkpoints = list_checkpoints(folder)
    if not checkpoints or checkpoints[-1].name != f"step-{config['steps']:08d}":
        return BEGUN
    record = read_record(unit)
    judged = record and _is_of(record, unit, unit.evaluate)
    return FINISHED if judged and len(_fractions_in(record, unit)) == len(unit.fractions) else TRAINED


def read_record(unit: Unit) -> dict[str, Any] | None:
    """What was written of a finished unit; None if there is nothing readable."""
    try:
        record = json.loads(unit.record.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"fingerprint", "result"} <= set(record) else None


def attempt(unit: Unit) -> UnitOutcome:
    """:func:`finish`, whatever becomes of it, so that one bad arm does not stop the others."""
    started = time.monotonic()
    try:
        record = finish(unit)
    except UserError as error:
        return UnitOutcome(unit, None, time.monotonic() - started, failed=str(error))
    except Exception as error:  # a bug of one arm; its traceback is kept
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return UnitOutcome(unit, None, time.monotonic() - started, failed=line, trace=traceback.format_exc())
    return UnitOutcome(unit, record, time.monotonic() - started)


def finish(unit: Unit) -> dict[str, Any]:
    """Pretrain and judge as far as that is not done yet; returns the record and leaves it on disk."""
    state, before = state_of(unit), read_record(unit)
    if state == FINISHED and before:
        return before
    seconds = before.get("pretrain_seconds") if before and state == TRAINED else None
    if state in (NEW, BEGUN) or before is None:  # one that was killed after its last step has pictures left to draw
        started = time.monotonic()
        pretrain(replace(unit.pretrain, resume=state != NEW), quiet=True)
        # of a run that was gone on with, only the last stretch was timed
        seconds = round(time.monotonic() - started, 2) if state == NEW else None
    if state == TRAINED and before and _is_of(before, unit, unit.evaluate):
        judged, known = {name: before.get(name) for name in _OF_JUDGING}, _fractions_in(before, unit)
    else:
        judged, known = _judged(unit, unit.evaluate), {}
    record = {"arm": unit.arm, "seed": unit.seed, "pretrain_seconds": seconds, **judged}
    if unit.fractions:
        record["label_fractions"] = {
            f"{share:g}": known.get(share) or _judged(unit, options) for share, options in unit.fractions.items()
        }
    write_text_atomically(unit.record, json.dumps(record, indent=1) + "\n")
    return record


_OF_JUDGING = ("fingerprint", "evaluate_seconds", "result")


def _judged(unit: Unit, options: EvaluateOptions) -> dict[str, Any]:
    """What an evaluation of the unit's run found, and what it follows from."""
    started = time.monotonic()
    result = evaluate(options, quiet=True)
    seconds = round(time.monotonic() - started, 2)
    return dict(zip(_OF_JUDGING, (_fingerprint(unit, options), seconds, result), strict=True))


def _is_of(judged: Any, unit: Unit, options: EvaluateOptions) -> bool:
    """Whether something read from a record is what :func:`_judged` would give now."""
    known = isinstance(judged, dict) and {"fingerprint", "result"} <= set(judged)
    return known and bool(judged["fingerprint"] == _fingerprint(unit, options))


def _fractions_in(record: Any, unit: Unit) -> dict[float, dict[str, Any]]:
    """What a record has of the unit's evaluations by a share of the labels, by that share."""
    written = record.get("label_fractions") if isinstance(record, dict) else None
    found: dict[float, Any] = (
        {share: written.get(f"{share:g}") for share in unit.fractions} if isinstance(written, dict) else {}
    )
    return {share: judged for share, judged in found.items() if _is_of(judged, unit, unit.fractions[share])}


def _fingerprint(unit: Unit, options: EvaluateOptions) -> dict[str, Any]:
    """What an evaluation depends on: its settings, the weights it judged, and the package."""
    settings = {name: value for name, value in _plain(options).items() if name not in _FREE_OF_JUDGING}
    newest = list_checkpoints(unit.pretrain.out)[-1]
    sums = newest / "SHA256SUMS"
    weights = hashlib.sha256((sums if sums.exists() else newest / "model.safetensors").read_bytes()).hexdigest()
    return {"settings": settings, "checkpoint": newest.name, "weights": weights, "version": __version__}


def _plain(options: PretrainOptions | EvaluateOptions) -> dict[str, Any]:
    """Options as a run's config holds them."""
    plain = options.recorded() if isinstance(options, PretrainOptions) else asdict(options)
    content: dict[str, Any] = json.loads(_json(plain))
    return content


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
