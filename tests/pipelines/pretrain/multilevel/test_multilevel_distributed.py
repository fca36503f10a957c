"""`pretrain --masking mlo` under torchrun: two processes on gloo do the run of one process."""

import json
from dataclasses import replace

import pytest
import torch

from mae.training.checkpoints import list_checkpoints
from pipelines.run_folder import RunFolder
from tests.pipelines.pretrain.test_distributed import errors, torchrun
from tests.pipelines.pretraining import folder_of, nano_options, run

COMMON = {"masking": "mlo", "source": "shapes:40,size=32", "epochs": 1, "blr": 0.005, "mlo_unroll": "2,1"}
OWN = COMMON | {"mlo_buffer": 16, "mlo_wait": 0.0, "mlo_masker_rate": 0.001}
STEPS = COMMON | {"mlo_masker": "gate", "mlo_path": "weighted", "mlo_head": "steps", "mlo_through": 0, "mlo_wait": 0.0}
LOSSES = ("loss", "head_loss", "masker_loss")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("levels")
    pictures = place / "pictures"
    for name in ("a", "b"):
        folder_of(pictures / name, 20, broken=[3, 4])
    wanted = {
        "whole": OWN,
        "relative": STEPS | {"mlo_path": "relative", "mlo_unroll": "1,2"},
        "torn": OWN | {"source": str(pictures), "max_rejected": 0.2},
        "exact": STEPS | {"mlo_hypergradient": "exact"},
    }
    (place / "runs.json").write_text(json.dumps([(c | {"out": str(place / n)}, None) for n, c in wanted.items()]))
    done = torchrun("several", place)
    assert done.returncode == 0, errors(done)
    told = [json.loads((place / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    return place, wanted, dict(zip(wanted, zip(*told, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "relative", "torn", "exact"])
def test_two_processes_do_the_run_of_one(runs, name, tmp_path, nano):
    place, wanted, told = runs
    assert [each["error"] for each in told[name]] == [None, None]
    alone, together = run(replace(nano_options(tmp_path / name), **wanted[name])), RunFolder(place / name)
    for key in LOSSES:
        theirs = [line[key] for line in alone.metrics()]
        assert [line[key] for line in together.metrics()] == pytest.approx(theirs, abs=1e-4)
        assert len(set(theirs)) > 2
    ours, theirs = (
        torch.load(list_checkpoints(each.folder)[-1] / "training.pt", weights_only=True)["point"]["masker"]
        for each in (together, alone)
    )
    for key, value in theirs.items():
        if "qkv.bias" not in key:  # a key's bias has no gradient but rounding, which AdamW makes as large as any
            torch.testing.assert_close(ours[key], value, atol=1e-3, rtol=1e-2, msg=key)
    counts = [json.loads((each.folder / "cost.json").read_text()) for each in (together, alone)]
    assert counts[0]["flops"] == pytest.approx(counts[1]["flops"], rel=0.05)
    assert {p.name for p in together.folder.iterdir()} == {p.name for p in alone.folder.iterdir()}
