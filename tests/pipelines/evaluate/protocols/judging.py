"""Evaluations of a tiny run on coloured images, whose training steps are counted or stopped."""

from contextlib import contextmanager

import pytest

from mae.evaluation.attentive_probe import AttentiveSweep
from pipelines.evaluate.evaluate import evaluate

ALL = ("knn", "logistic", "linear", "attentive", "finetune")
QUICK_RECIPES = {"linear_epochs": 3, "linear_batch_size": 8, "finetune_epochs": 2, "finetune_batch_size": 8}


def judge(options):
    return evaluate(options, quiet=True)


def row(options):
    return judge(options)["rows"][0]


def update_of(kind):
    return "update_in_parts" if kind is AttentiveSweep else "update"


@contextmanager
def counting(*kinds):
    """Counts the steps of every training within it."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            name = update_of(kind)
            update = getattr(kind, name)

            def counted(self, *arguments, _update=update):
                steps.append(type(self).__name__)
                return _update(self, *arguments)

            patch.setattr(kind, name, counted)
        yield steps


@contextmanager
def stopping(kind, step):
    """Ctrl-C when this many steps of a training are done."""
    name = update_of(kind)
    update = getattr(kind, name)

    def stops(self, *arguments):
        if self.step == step:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, name, stops)
        yield
