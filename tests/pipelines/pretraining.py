"""Short pretrainings of a nano model on scenes, for the tests of `pretrain`."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cli
from mae.models import sizes
from mae.training.checkpoints import load_model
from mae.training.training import Training
from pipelines.commandline.option import declared_options
from pipelines.pretrain.multilevel.task import MultilevelTask
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.plain import PlainTask
from pipelines.pretrain.pretrain import pretrain
from tests.tiny_mae import NANO

SOURCE = "shapes:24,size=32"
STEPS = 18
SMALL = ("--model", "nano", "--image-size", 16, "--batch-size", 4, "--epochs", 1, "--workers", 0, "--device", "cpu")
DRAWS = {task: task.draw for task in (PlainTask, MultilevelTask)}


def nano_runs(monkeypatch):
    """The size `nano` exists, and no pictures are drawn."""
    monkeypatch.setitem(sizes.SIZES, "nano", NANO)
    model = next(each.option for each in declared_options(PretrainOptions) if each.name == "model")
    monkeypatch.setitem(vars(model), "choices", (*model.choices, "nano"))
    for task in DRAWS:
        monkeypatch.setattr(task, "draw", lambda *_: None)


def nano_options(out):
    return PretrainOptions(
        SOURCE,
        out,
        model="nano",
        image_size=(16,),
        batch_size=4,
        epochs=3,
        blr=0.05,
        warmup_epochs=0.5,
        checkpoint_every=4,
        workers=0,
    )


def run(options):
    return pretrain(options, quiet=True)


def losses(folder):
    return [line["loss"] for line in folder.metrics()]


def assert_same_weights(a, b):
    a, b = load_model(a).state_dict(), load_model(b).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def stopping(step):
    """Ctrl-C when this many steps are done."""
    update = Training.update

    def stops(self, batches):
        if self.step == step:
            raise KeyboardInterrupt
        return update(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "update", stops)
        yield


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def folder_of(folder, count, broken=()):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        if i in broken:
            (folder / f"{i:02d}.png").write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return folder
