"""A long training holds no more memory at its end than after its warm-up."""

import resource
import sys
from pathlib import Path

import pytest

from mae.training.training import Training
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from tests.pipelines.pretraining import nano_runs

BATCH_BYTES = 4 * 3 * 32 * 32


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_2000_steps_hold_no_more_memory_than_500(tmp_path, monkeypatch):
    update, memory = Training.update, {}

    def measured(self, batches):
        memory[self.step] = resident()
        return update(self, batches)

    nano_runs(monkeypatch)
    monkeypatch.setattr(Training, "update", measured)
    options = PretrainOptions(
        "shapes:16,size=32",
        tmp_path,
        model="nano",
        image_size=(32,),
        batch_size=4,
        epochs=500,
        checkpoint_every=100,
        workers=0,
    )
    folder = pretrain(options, quiet=True)
    assert len(folder.metrics()) == len(memory) == 2000
    growth = max(memory[step] for step in range(1900, 2000)) - max(memory[step] for step in range(400, 500))
    print(f"resident after 500 steps {memory[499] / 2**20:.1f} MiB, growth by 2000 {growth / 2**20:.2f} MiB")
    assert growth < 1500 * BATCH_BYTES / 4  # a step that leaves a quarter of its images behind is seen
