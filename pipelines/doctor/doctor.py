"""``doctor``: says in words whether a run learns, from its log, its newest weights and some of its images.

Every finding is a sentence with a number, and one that is not well says what to do. Nothing is changed. What needs
images is left out where they are not at hand.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mae.models.video import new_model
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import list_checkpoints, load_model
from pipelines.doctor.findings import Finding
from pipelines.doctor.from_images import look_at_images
from pipelines.doctor.from_log import look_at_log
from pipelines.doctor.options import DoctorOptions
from pipelines.errors import UserError, user_errors
from pipelines.inspect.health import sample_of
from pipelines.outputs import check_apart
from pipelines.run_folder import RunFolder
from saliency.files import write_text_atomically


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it is read."""

    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """In a line."""
        bad = [finding for finding in self.findings if finding.state == "bad"]
        if bad:
            return f"{len(bad)} finding{'s' * (len(bad) > 1)} to act on: {', '.join(each.name for each in bad)}"
        return "the run learns, as far as these figures show"

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values that ``json`` writes."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}


def doctor(options: DoctorOptions) -> Diagnosis:
    """Look at a run. Raises UserError for what is no run, or has no checkpoint yet."""
    if options.json is not None:
        check_apart(options.json, [options.source], option="--json", file=True)
    run = RunFolder(options.run)
    config = run.config()
    if not list_checkpoints(options.run):
        raise UserError(f"{options.run} has no checkpoint yet: wait for the first one (--checkpoint-every)")
    with user_errors():
        model = load_model(options.run).to(options.device).eval()
        untrained = _untrained(model, int(config["options"].get("seed", 0))).to(options.device)
    findings = look_at_log(run, config, model)
    try:
        source, images = sample_of(run, source=options.source, count=options.limit, allow_outside=options.allow_outside)
    except UserError as error:
        if options.source is not None:
            raise
        findings.append(Finding("images", "note", f"The images of the run can't be read: {error}", {}, _NO_IMAGES))
    else:
        findings += look_at_images(config, model, untrained, source, images)
    diagnosis = Diagnosis(findings)
    if options.json is not None:
        write_text_atomically(options.json, json.dumps(diagnosis.to_json(), indent=1) + "\n")
    return diagnosis


def _untrained(model: MaskedAutoencoder, seed: int) -> MaskedAutoencoder:
    """The weights that a run of this model and seed starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_model(model._hub_mixin_config).eval()  # type: ignore[arg-type]


_NO_IMAGES = "Give images with --source to check the loss, collapse and features."
