"""What ``export`` takes: the weights of a run, a saved model, or another's file or folder."""

from __future__ import annotations

from pathlib import Path

from mae.formats.foreign import Weights, build, foreign_kind, load_foreign
from mae.training.checkpoints import load_model


def open_weights(path: Path) -> Weights:
    """The weights of a run, a saved model, or another's file or folder; ValueError if there are none."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run folder, a saved model or an MAE checkpoint")
    if path.is_file() or foreign_kind(path):
        weights = load_foreign(path)
        build(weights, fresh_decoder=True)  # shapes that do not fit are found here, and not by whoever opens the export
        return weights
    model = load_model(path)
    return Weights(model.state_dict(), dict(model._hub_mixin_config))  # type: ignore[arg-type]
