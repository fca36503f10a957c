"""What torchrun starts in `test_distributed`: the command line, or several runs one after the other, with faults."""

import json
import math
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae.training.guard import Guard
from mae.training.spread import local
from mae.training.training import Training
from pipelines.commandline import terminal
from pipelines.errors import UserError
from pipelines.pretrain import pretrain as module
from pipelines.pretrain.pretrain import pretrain
from pipelines.pretrain.processes import one_world
from tests.pipelines.pretraining import nano_options, nano_runs

UPDATE, LOOK, LOAD = Training.update, Guard.look, module._load


def killed(rank, step):
    """At its first start, this process of them all is gone when this many steps are done."""

    def update(self, batches):
        if (self.step, self.world.rank, self.world.restarts) == (step, rank, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return UPDATE(self, batches)

    Training.update = update


def broken_loss(rank, step):
    """The loss of this process alone is no number in this step, counted from 1."""

    def update(self, batches):
        if (self.step + 1, self.world.rank) == (step, rank):
            self.spread.loss.register_forward_hook(lambda module, inputs, loss: loss * math.nan)
        return UPDATE(self, batches)

    Training.update = update


def broken_part(rank, step):
    """A gradient's part in this process alone is infinite in this step, counted from 1."""

    def update(self, batches):
        def look(guard, model, *others):
            if (self.step + 1, self.world.rank) == (step, rank):
                local(model.decoder_pred.weight.grad)[-1, -1] = math.inf
            LOOK(guard, model, *others)

        Guard.look = look
        return UPDATE(self, batches)

    Training.update = update


def stopped(step):
    """A mistake of every process when this many steps are done."""

    def update(self, batches):
        if self.step == step:
            raise UserError("stopped")
        return UPDATE(self, batches)

    Training.update = update


def slow_to_tell(seconds):
    """A mistake is printed late, when torchrun would have ended the process if another one had failed before."""
    fail = terminal.fail

    def fails(*arguments):
        time.sleep(seconds)
        fail(*arguments)

    terminal.fail = fails


def watched(indices):
    """Which images this process reads is written down."""

    def load(*arguments):
        for batch in LOAD(*arguments):
            indices.append([*batch.indices.tolist(), *(item.index for item in batch.unreadable)])
            yield batch

    module._load = load


FAULTS = {
    "killed": killed,
    "broken_loss": broken_loss,
    "broken_part": broken_part,
    "stopped": stopped,
    "slow_to_tell": slow_to_tell,
}


def several_runs(place):
    """The runs of ``place``/runs.json in one world; what each process saw of them goes beside it."""
    told = []
    with one_world("cpu") as world:
        for changes, fault in json.loads((place / "runs.json").read_text()):
            Training.update, Guard.look = UPDATE, LOOK
            if fault:
                FAULTS[fault[0]](*fault[1:])
            indices, error = [], None
            watched(indices)
            changes = {name: tuple(v) if isinstance(v, list) else v for name, v in changes.items()}
            options = replace(nano_options(Path(changes.pop("out"))), **changes)
            try:
                pretrain(options, quiet=True, world=world)
            except UserError as found:
                error = f"{type(found).__name__}: {found}"
            told.append({"indices": indices, "error": error})
        (place / f"told-{world.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    nano_runs(pytest.MonkeyPatch())
    if "FAULT" in os.environ:
        name, *numbers = os.environ["FAULT"].split()
        FAULTS[name](*map(int, numbers))
    if sys.argv[1] == "several":
        several_runs(Path(sys.argv[2]))
    else:
        import cli

        cli.app()
