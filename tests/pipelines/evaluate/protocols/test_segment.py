"""``--protocol segment`` against an encoder that can't fail."""

from dataclasses import replace

from pipelines.evaluate.data import Data, open_masked
from pipelines.evaluate.evaluate import evaluate
from pipelines.evaluate.protocols.segment import Segment
from tests.pipelines.evaluate.protocols.test_occlusion_protocol import save_run
from tests.pipelines.evaluate.protocols.test_whole_images import options, oracle, write_frame


def row_of(given):
    protocol = Segment(given, Data(given), quiet=True)
    return protocol.row([protocol.measure(oracle(), 0, None)], [0], None)


def test_an_oracle_segments_without_an_error(tmp_path):
    for i in range(10):
        write_frame(tmp_path / "data", f"{i}", (6 + i, 12))
    given = options(tmp_path / "data", test_fraction=0.3)
    train, test, names = open_masked(given)
    assert (len(train), len(test), names) == (7, 3, [])
    row = row_of(given)
    assert row["segment"] == 1
    assert row["segment_per_class"] == {"background": 1, "object": 1}
    assert row["segment_ends"] == (1, 1)


def test_an_oracle_segments_classes(tmp_path):
    colours = {"red": (250, 0, 0), "green": (0, 250, 0)}
    for name, colour in colours.items():
        for i in range(6):
            write_frame(tmp_path / "data" / name, f"{i}", (6 + i, 12), colour)
    given = options(tmp_path / "data")
    _, _, names = open_masked(given)
    assert names == ["green", "red"]
    assert row_of(given)["segment_per_class"] == {"background": 1, "green": 1, "red": 1}
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
