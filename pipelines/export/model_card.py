"""The model card of an exported run: what was trained on what, with which masks, how far, and how good it is.

Everything in it is read from the run's own files; what a run does not hold, the card does not claim. Paths are shown by
their last part, so that a card tells nothing of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae.masks.strategies import has_effect
from pipelines.errors import UserError
from pipelines.evaluate.protocol import load
from pipelines.evaluate.table import PROTOCOLS
from pipelines.pretrain.options import option_defaults
from pipelines.run_folder import CONFIG, RunFolder
from saliency.files import read_json
from saliency.shown import code_span, markdown, markdown_table, one_line
from saliency.table.card import last_part

_SHOWN = (
    *("model", "masking", "mask_ratio", "salient_ratio", "salient_of", "salient_pick", "salient_mass"),
    *("salient_cap", "epochs", "batch_size", "accumulate", "blr", "weight_decay", "precision", "seed"),
)
_SHOWN_IF_ASKED = (
    "mask_granularity",
    "class_tokens",
    "decode_ratio",
    "saliency_weight",
    "weight_by",
    "saliency_weight_schedule",
    "visible_weight",
)
_LIBRARIES = {"mae": "pytorch", "timm": "timm", "transformers": "transformers"}


_GATE = """A gate was trained with it: a small network that scores patches as important or background, from this model's
patch embeddings (before positions), [B, N, D] → logits [B, N]. With saliency-mae:

```python
from mae.mask_learners.gate import load_gate

gate = load_gate("gate.safetensors")
```
"""


def model_card(folder: Path, model: Mapping[str, Any], kind: str, load: str, *, gate: bool = False) -> str:
    """The card, in Markdown with the Hub's header, of the model of ``folder``.

    ``model`` holds the arguments of MaskedAutoencoder, ``kind`` is a format of ``export``, ``load`` the line of Python
    that opens it; ``gate`` says whether ``gate.safetensors`` lies beside it.
    """
    header = ["---", f"library_name: {_LIBRARIES[kind]}", "tags: [masked-autoencoder, vision-transformer]"]
    header += ["pipeline_tag: image-feature-extraction", "---", ""]
    title = ["# Masked autoencoder", "", "A ViT pretrained as a masked autoencoder (He et al. 2021, arXiv 2111.06377)."]
    lines = [*header, *title, "", "```python", one_line(load), "```", ""]
    lines += [_GATE] if gate else []
    lines += _table("Model", {markdown(name): _value(value) for name, value in model.items()})
    lines += run_facts(folder)
    return "\n".join(lines).rstrip() + "\n"


def run_facts(folder: Path) -> list[str]:
    """Lines of Markdown on a run's configuration and results; none for a model that is no run."""
    run = RunFolder(folder)
    if not (folder / CONFIG).is_file():
        return []
    try:
        config = run.config()
    except UserError:  # a saved model's own config.json
        return []
    options, metrics = config["options"], run.metrics()
    options = options | config["masking"] | {"masking": config["masking"]["strategy"], "precision": config["precision"]}
    shown = [name for name in _SHOWN if options.get(name) is not None and has_effect(name, options["masking"])]
    usual = option_defaults()
    shown += [name for name in _SHOWN_IF_ASKED if options.get(name, usual[name]) != usual[name]]
    training = {name: _value(options[name]) for name in shown}
    training = {"source": f"{_place(options['source'])} ({markdown(config['images'])} images)"} | training
    if options.get("saliency"):
        training["saliency"] = _place(options["saliency"])
    if metrics:
        training["steps"] = f"{metrics[-1]['step']} of {markdown(config['steps'])}"
        training["loss"] = f"{metrics[-1]['loss']:.4f} at the last logged step"
    return _table("Training", training) + _results(folder / "evaluation.json")


def _results(file: Path) -> list[str]:
    """What ``evaluate`` wrote into the run."""
    try:
        result = read_json(file)
        protocols = [name for name, row in PROTOCOLS.items() if row.accuracy and name in result["rows"][0]]
        rows = [
            [
                _place(row["encoder"]),
                *(f"{100 * row[name]:.1f} ± {100 * row[f'{name}_interval']:.1f}" for name in protocols),
            ]
            for row in result["rows"]
        ]
        facts = (
            f"{_what(protocols, result)} on {_place(result['source'])}: {int(result['train_images'])} "
            f"training and {int(result['test_images'])} test images, {int(result['classes'])} classes, largest class "
            f"{100 * result['chance']:.1f} %. Accuracy in %, with 95 % intervals."
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []
    heading = ["encoder", *protocols]
    return ["## Results", "", facts, "", *markdown_table([heading, *rows]), ""]


def _what(protocols: list[str], result: Mapping[str, Any]) -> str:
    """What was measured: frozen features, or the fine-tuned encoder, or both."""
    frozen = f"Frozen features ({code_span(result['pool'])})"
    tuned = [name for name in protocols if not load(name).frozen]
    if not tuned:
        return frozen
    names = ", ".join(f"`{name}`" for name in tuned)
    return "Fine-tuned" if tuned == protocols else f"{frozen}, and the encoder fine-tuned ({names}),"


def _table(title: str, facts: Mapping[str, str]) -> list[str]:
    return [f"## {title}", "", *markdown_table([["", ""], *([name, value] for name, value in facts.items())]), ""]


def _place(place: object) -> str:
    """A path by its last part, in Markdown."""
    return markdown(last_part(str(place)))


def _value(value: object) -> str:
    return markdown("×".join(map(str, value)) if isinstance(value, (list, tuple)) else value)
