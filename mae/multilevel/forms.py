"""Options of MLO-MAE that go together: what holds where nothing is said. Reads nothing heavy.

A form gives every option of the levels a value, by its name in ``pretrain`` without ``mlo_``. Some values depend on T.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMS: dict[str, dict[str, Any]] = {
    "own": {
        "masker": "mix",
        "path": "drawn",
        "hypergradient": "finite",
        "unroll": "8,1",
        "through": 1,
        "head": "solved",
        "buffer": 1024,
        "wait": 0.95,
        "share": 0.5,
        "split": 0.2,
        "head_rate": 1e-3,
        "masker_rate": 1e-3,
        "exploration": 1.0,
        "pool": "mean",
        "crops": "gentle",
    },
    "paper": {
        "masker": "mlp",
        "path": "weighted",
        "hypergradient": "finite",
        "unroll": "2,1",
        "through": 0,
        "head": "steps",
        "buffer": 1024,
        "wait": 0.0,
        "share": 1.0,
        "split": 0.2,
        "head_rate": 1e-3,
        "masker_rate": 1e-3,
        "exploration": 0.0,
        "pool": "cls",
        "crops": "training",
    },
}
"""``own`` is what measured best here; ``paper`` is Guo et al. 2024, with the rates of the authors' code on CIFAR-10."""

OF_MASKER: dict[str, dict[str, Any]] = {"mix": {"masker_rate": 0.05}}
"""What the form ``own`` has instead where T is one of these."""

BEFORE: dict[str, Any] = {
    "mlo_form": "own",
    "mlo_through": 0,
    "mlo_head": "steps",
    "mlo_buffer": 1024,
    "mlo_wait": 0.0,
    "mlo_share": 1.0,
    "mlo_crops": "training",
}
"""What runs had that began before these options existed."""


def settled(asked: Mapping[str, Any], begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of the levels, ``mlo_…``, with a value for every one that was not asked for (None).

    It is that of the form that was asked for, else that of a run that was ``begun``, else that of the form ``own``.
    ValueError, naming both options, where something else was asked for than the paper's form has.
    """
    form = asked.get("mlo_form")
    if form is not None and form not in FORMS:
        raise ValueError(f"--mlo-form {form!r} is not one of: {', '.join(FORMS)}")
    given = {name: asked.get(f"mlo_{name}") for name in FORMS["own"]}
    given = {name: value for name, value in given.items() if value is not None}
    usual = dict(FORMS[form or "own"])
    if form == "paper":
        _check_paper(given)
    elif form is None and begun is not None:
        form = begun["mlo_form"]
        usual = {name: begun[f"mlo_{name}"] for name in usual}
    else:
        usual |= OF_MASKER.get(given.get("masker", usual["masker"]), {})
    return {"mlo_form": form or "own"} | {f"mlo_{name}": value for name, value in (usual | given).items()}


def _check_paper(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        theirs = FORMS["paper"][name]
        if value != theirs and name not in ("split", "hypergradient"):  # which change how it runs, not what it is
            raise ValueError(
                f"--mlo-{name.replace('_', '-')} {value} is not --mlo-form paper, which has {theirs}: leave one out"
            )
