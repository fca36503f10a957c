"""``--protocol segment`` against an encoder that can't fail."""

from dataclasses import replace

from pipelines.evaluate.data import open_masked
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.protocols.segment import segment_row, segmentation
from tests.pipelines.evaluate.protocols.test_occlusion_protocol import save_run
from tests.pipelines.evaluate.protocols.test_whole_images import options, oracle, write_frame


def test_an_oracle_segments_without_an_error(tmp_path):
    for i in range(10):
        write_frame(tmp_path / "data", f"{i}", (6 + i, 12))
    given = options(tmp_path / "data", test_fraction=0.3)
    train, test, names = open_masked(given)
    assert (len(train), len(test), names) == (7, 3, [])
    found = segmentation(oracle(), train, test, 2, given, seed=0, quiet=True)
    row = segment_row([found], ["background", "object"], 0)
    assert row["segment"] == 1
    assert row["segment_per_class"] == {"background": 1, "object": 1}
    assert row["segment_ends"] == (1, 1)


def test_an_oracle_segments_classes(tmp_path):
    colours = {"red": (250, 0, 0), "green": (0, 250, 0)}
    for name, colour in colours.items():
        for i in range(6):
            write_frame(tmp_path / "data" / name, f"{i}", (6 + i, 12), colour)
    given = options(tmp_path / "data")
    train, test, names = open_masked(given)
    assert names == ["green", "red"]
    found = segmentation(oracle(), train, test, 3, given, seed=0, quiet=True)
    assert segment_row([found], ["background", *names], 0)["segment_per_class"] == dict.fromkeys(
        ["background", *names], 1
    )
    _, _, names = open_masked(replace(given, segment_classes=False))
    assert names == []


def test_fewer_masks_to_learn_from(tmp_path):
    run = save_run(tmp_path / "run")
    given = replace(options("shapes:40,size=32,objects=1", protocols=("segment",)), run=run, untrained=False)
    whole, share = (evaluate(replace(given, label_fraction=f), quiet=True) for f in (1.0, 0.25))
    assert share["train_images"] == 8
    assert whole["train_images"] == 32
    assert "baselines" not in whole
    assert whole["rows"][0]["segment_runs"][0]["patches"] == 32 * 16
    assert share["rows"][0]["segment_runs"][0]["patches"] == 8 * 16
