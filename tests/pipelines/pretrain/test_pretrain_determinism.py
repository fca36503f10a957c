"""`pretrain --deterministic`: the same bits, or a line that says why not."""

from dataclasses import replace

import pytest
import torch

from mae.training.checkpoints import list_checkpoints
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.sources.open_source import open_source
from tests.pipelines.pretraining import (
    SOURCE,
    losses,
    run,
)
from tests.tiny_mae import write_maps

pytestmark = pytest.mark.usefixtures("nano")


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path / "maps", open_source(SOURCE))


def test_deterministic_runs_are_equal_to_the_bit(base, tmp_path, maps, monkeypatch):
    update, modes = Training.update, set()

    def watched(self, batches):
        modes.add(torch.are_deterministic_algorithms_enabled())
        return update(self, batches)

    monkeypatch.setattr(Training, "update", watched)
    options = replace(base, saliency=maps, deterministic=True, precision="bf16", model="tiny", patch_size=8, epochs=1)
    first, second = run(options), run(replace(options, out=tmp_path / "again", workers=2))
    assert losses(first) == losses(second)
    for name in ("model.safetensors", "training.pt"):
        a, b = ((list_checkpoints(folder.folder)[-1] / name).read_bytes() for folder in (first, second))
        assert a == b
    assert modes == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert first.config()["options"]["deterministic"] is True
    with pytest.raises(UserError, match="other settings .*deterministic True → False"):
        run(replace(options, resume=True, deterministic=False))


def test_an_operation_that_is_not_deterministic_is_one_line(base, monkeypatch):
    def update(self, batches):
        return torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))

    monkeypatch.setattr(Training, "update", update)
    with pytest.raises(UserError, match="--deterministic can't be had here: put_"):
        run(replace(base, deterministic=True))


def test_a_bug_stays_a_bug_in_deterministic_mode(base, monkeypatch):
    def update(self, batches):
        raise ValueError("a bug")

    monkeypatch.setattr(Training, "update", update)
    with pytest.raises(ValueError, match="a bug"):
        run(replace(base, deterministic=True))
