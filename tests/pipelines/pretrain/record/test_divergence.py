"""A run that is not finite any more: stopped, its step kept, and told of in one line."""

import itertools
import json
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import list_checkpoints, load_model, load_training
from mae.training.training import Batch, Training
from pipelines.errors import UserError
from pipelines.pretrain.settings import settings_of
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from pipelines.views.image_views import EpochBatches, Views, collate
from tests.pipelines.pretraining import (
    SMALL,
    SOURCE,
    assert_same_weights,
    invoke,
    losses,
    run,
    stopping,
)

pytestmark = pytest.mark.usefixtures("nano")


@contextmanager
def breaking(step, what):
    """In this step (counted from 1) the loss, one gradient or, once it is done, one weight is no number."""
    forward, update, calls = MaskedAutoencoder.forward, Training.update, itertools.count(1)

    def breaks(self, *told, **how):
        loss = forward(self, *told, **how)
        if next(calls) != step or what == "weight":
            return loss
        if what == "loss":
            return loss + math.nan  # whose gradients are as before
        hook = self.decoder_pred.weight.register_hook(lambda gradient: (hook.remove(), gradient * math.inf)[1])
        return loss

    def updates(self, batches):
        loss = update(self, batches)
        if self.step == step and what == "weight":
            with torch.no_grad():
                self.model.norm.weight[0] = math.nan
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedAutoencoder, "forward", breaks)
        patch.setattr(Training, "update", updates)
        yield


@pytest.mark.parametrize(
    ("what", "broken", "stopped", "message"),
    [
        ("loss", 6, 6, r"the loss became nan at step 6 \(learning rate 0\.0007\d+; .*: no weight or gradient\)"),
        (
            "gradient",
            6,
            6,
            r"the gradients .* \(loss \d.*\) at step 6 .*; first not finite: gradient of decoder_pred.weight\)",
        ),
        ("weight", 5, 6, r"the loss became nan at step 6 .*; first not finite: weight norm\.weight\)"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run_with_its_state_saved(base, tmp_path, what, broken, stopped, message):
    with (
        breaking(broken, what),
        pytest.raises(UserError, match=f"{message}: begin a new run with a lower --blr") as told,
    ):
        run(replace(base, seed=3))
    place = base.out / "nonfinite"
    assert str(place) in str(told.value)
    assert "\n" not in str(told.value)
    log = RunFolder(base.out).metrics()
    assert [line["step"] for line in log] == list(range(1, stopped + 1))  # the next look was at step 8
    facts = json.loads((place / "step.json").read_text())
    assert (facts["step"], facts["seed"], facts["learning_rate"]) == (stopped, 3, log[-1]["learning_rate"])
    images = [image for batch in facts["batches"] for image in batch]
    keys = open_source(SOURCE).keys
    assert all(image["key"] == keys[image["index"]].as_py() for image in images)
    assert [image["index"] for image in images] == [
        index for _, index in next(iter(EpochBatches(24, 4, 6, 3, seed=3, start=stopped - 1)))
    ]
    assert [path.name for path in list_checkpoints(base.out)] == ["step-00000004"]
    if what != "weight":  # the saved weights are those that an unbroken run has before the step
        with stopping(5), pytest.raises(KeyboardInterrupt):
            run(replace(base, seed=3, out=tmp_path / "whole", checkpoint_every=5))
        assert_same_weights(place, tmp_path / "whole")
        assert json.loads((place / "step.json").read_text())["weight_not_finite"] is None
    else:
        assert facts["weight_not_finite"] == "norm.weight"


def test_a_saved_step_can_be_done_again(base):
    with breaking(6, "gradient"), pytest.raises(UserError):
        run(base)
    model = load_model(base.out / "nonfinite")
    settings = settings_of(base)
    training = Training(model, settings.masking, settings.training, 6)
    load_training(base.out / "nonfinite", training)
    assert training.step == 5
    indices = [image["index"] for image in json.loads((base.out / "nonfinite" / "step.json").read_text())["batches"][0]]
    views = Views(open_source(SOURCE), model.image_size, augment=True, seed=0)
    loss = training.update([Batch(collate([views[0, index] for index in indices]).images)])
    assert float(loss) == losses(RunFolder(base.out))[5]


def test_weights_that_a_finite_gradient_threw_out_of_range(base):
    with (
        breaking(8, "weight"),
        pytest.raises(UserError, match=r"weights became .* by step 8 \(first: norm\.weight\): begin"),
    ):
        run(base)
    assert [path.name for path in list_checkpoints(base.out)] == ["step-00000004"]
    assert json.loads((base.out / "nonfinite" / "step.json").read_text())["weight_not_finite"] == "norm.weight"
    assert load_model(base.out).norm.weight.isfinite().all()


def test_a_run_that_diverges_by_itself_ends_the_command(tmp_path):
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, "--blr", 1e38, "--warmup-epochs", 0)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: the ")
    assert "Traceback" not in result.stderr
    assert (tmp_path / "run" / "nonfinite" / "model.safetensors").exists()
