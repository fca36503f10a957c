"""``--dry-run`` of the long commands: what it says is what the command then does, and it writes nothing."""

import re
from dataclasses import replace

import pytest

from pipelines.build.build_saliency import build_saliency
from pipelines.build.dry_run import dry_run as build_dry_run
from pipelines.build.options import BuildOptions
from pipelines.encode.dry_run import dry_run as encode_dry_run
from pipelines.encode.encode import encode
from pipelines.encode.options import EncodeOptions
from pipelines.errors import UserError
from pipelines.estimates import room, sample, shown_rest, shown_size, shown_time, since_began
from pipelines.evaluate.dry_run import dry_run as evaluate_dry_run
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.prepare.dry_run import dry_run as prepare_dry_run
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.prepare import prepare
from pipelines.pretrain.dry_run import dry_run as pretrain_dry_run
from pipelines.pretrain.pretrain import pretrain
from pipelines.reconstruct.dry_run import dry_run as reconstruct_dry_run
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.sources.prepared_folder import totals
from tests.pipelines.build.test_build_saliency import write_pictures
from tests.pipelines.evaluate.test_evaluate import save_run, tree
from tests.pipelines.pretraining import SMALL, invoke, nano_options, nano_runs


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    for place in ("build.dry_run", "pretrain.dry_run", "estimates"):
        monkeypatch.setattr(f"pipelines.{place}.SECONDS", 0.05)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (200_000, "2 d 7 h")],
)
def test_times_have_two_units(seconds, text):
    assert shown_time(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what is added to it."""
    now = [0.0]
    monkeypatch.setattr("pipelines.estimates.time.perf_counter", lambda: now[0])
    return now


def test_what_a_command_imports_and_opens_is_a_part_of_its_start(clock, monkeypatch, tmp_path):
    """Not what the process did before, as a second command of one process would otherwise count."""

    def slow(options):
        assert since_began() == 0.0
        clock[0] += 20.0
        return {"waited": f"{since_began():.0f} s"}

    clock[0] = 500.0
    monkeypatch.setattr("pipelines.prepare.dry_run.dry_run", slow)
    assert "20 s" in invoke("prepare", "shapes:4", "--out", tmp_path / "small", "--dry-run").output


def test_sizes_and_the_room_for_them(tmp_path):
    assert [shown_size(count) for count in (999, 1234, 5.6e8, 3e12)] == ["999 bytes", "1.23 kB", "560 MB", "3 TB"]
    assert room(tmp_path / "not" / "there").endswith(" free")
    assert shown_rest(5.0, 2.0, 300, "pairs") == "about 2 min 35 s for 300 pairs, 5 s of it to start"
    assert "stream" in shown_rest(5.0, 2.0, None, "pairs")


@pytest.mark.parametrize(
    ("units", "start", "each", "done"),
    [
        (None, 0.01, 0.0001, [4, 4, 16, 256]),  # sixteen times as many at most
        (100, 0.01, 0.0001, [4, 4, 16, 100]),
        (3, 0.01, 0.0001, [3, 3]),
        (None, 0.01, 0.0009, [4, 4, 16, 55]),  # as many as the time allows
        (None, 0.5, 0.1, [4, 4, 8]),  # so slow that the first ones are enough
        (None, 1.0, 0.0001, [4, 4, 8, 128]),  # slow to start alone
    ],
)
def test_what_starting_takes_is_told_from_what_a_unit_takes(clock, units, start, each, done):
    asked = []

    def work(count, folder):
        clock[0] += start + each * count + (0 if asked else 9.0)  # what is imported or compiled once
        asked.append(count)
        (folder / "written").write_bytes(b"x" * (100 + 7 * count))

    found = sample(work, units)
    assert (asked, found.units) == (done, done[-1])
    if len(done) > 2:
        measured = (found.each, found.start, found.bytes_each, found.bytes_start)
        assert measured == pytest.approx((each, start + 9.0, 7, 100))
    assert found.start + found.work(done[-1]) == pytest.approx(9.0 + start + each * done[-1])
    assert found.written(done[-1]) == pytest.approx(100 + 7 * done[-1])


def test_the_first_ones_may_all_be_bad(clock):
    asked = []

    def work(count, folder):
        asked.append(count)
        clock[0] += 1.0
        if count < bad:
            raise UserError("none of them can be read")

    bad = 10
    assert sample(work, 1000).units == 1000
    bad = 100
    with pytest.raises(UserError, match="none of them"):
        sample(work, 1000)
    assert asked == [4, 64, 64, 128, 1000, 4, 64]


def size_in(text):
    number, unit = re.match(r"([\d.e+]+) (bytes|kB|MB)", text).groups()
    return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_a_build_is_foretold(tiny_clip, tmp_path):
    source = write_pictures(tmp_path / "photos", [f"number {i}" for i in range(40)])
    options = BuildOptions(str(source), tmp_path / "maps", clip=tiny_clip, batch_size=10, shard_size=40)
    facts = build_dry_run(options)
    assert not options.out.exists()
    assert facts["source"] == f"{source}: 40 pairs"
    assert "for 40 pairs" in facts["time"]
    manifest = build_saliency(options, quiet=True)
    table = options.out / "data" / manifest.shards[0].file
    assert 0.8 < size_in(facts["to write"]) / table.stat().st_size < 1.4  # of tens
    assert build_dry_run(options)["left to do"].startswith("nothing")
    with pytest.raises(UserError, match="leave --engine ray out"):
        build_dry_run(replace(options, engine="ray"))


def test_a_build_of_motion_is_foretold(tmp_path):
    options = BuildOptions("shapes-video:6,size=32,frames=6", tmp_path / "maps", method="motion", slots=3, workers=1)
    facts = build_dry_run(options)
    assert facts["maps"] == "motion, 16 × 16 cells in 3 slots, without a model"
    assert "for 6 pairs" in facts["time"]
    assert size_in(facts["to write"]) > 100


def test_preparing_is_foretold(tmp_path):
    source = write_pictures(tmp_path / "photos", [f"number {i}" for i in range(12)], size=(90, 60))
    options = PrepareOptions(str(source), tmp_path / "small", size=32, workers=1)
    facts = prepare_dry_run(options)
    assert not options.out.exists()
    made = totals(prepare(options, quiet=True))
    assert facts["source"] == f"{source}: 12 rows"
    assert size_in(facts["to write"]) == pytest.approx(made.bytes_out, rel=0.01)


def test_a_training_is_foretold(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    options = replace(nano_options(tmp_path / "run"), batch_size=8)
    facts = pretrain_dry_run(options)
    assert not options.out.exists()
    run = pretrain(options, quiet=True)
    assert facts["training"].startswith(f"{run.config()['steps']} steps of 8 images, 3 an epoch")
    checkpoint = max((run.folder / "checkpoints").glob("step-*"))
    written = sum(file.stat().st_size for file in checkpoint.iterdir())
    foretold = size_in(facts["to write"].partition("of ")[2])
    assert foretold == pytest.approx(written, rel=0.25)  # of so small a model names and sums are a part
    assert "holds a run" in pretrain_dry_run(options)["note"]
    with pytest.raises(UserError, match="is what is read"):
        pretrain_dry_run(replace(options, source=str(options.out)))


def test_encoding_and_completing_are_foretold(models, tmp_path):
    photos = write_pictures(tmp_path / "photos", [f"number {i}" for i in range(40)])
    encoding = EncodeOptions(models / "image", str(photos), tmp_path / "out" / "features.parquet")
    completing = ReconstructOptions(models / "image", str(photos), tmp_path / "filled", box=("0,0,0.5,0.5",))
    for options, look in ((encoding, encode_dry_run), (completing, reconstruct_dry_run)):
        facts = look(options)
        assert "images, " in facts["input"]
        assert size_in(facts["to write"].removeprefix("about ")) > 100
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "filled").exists()
    encode(encoding)
    with pytest.raises(UserError, match="is a file"):
        reconstruct_dry_run(replace(completing, out=encoding.out))
    with pytest.raises(UserError, match="can be read once"):
        encode_dry_run(replace(encoding, input="-", size=(8, 8), out=tmp_path / "more.parquet"))


def test_an_evaluation_is_foretold(tmp_path):
    source, run = tree(tmp_path / "photos", count=20), save_run(tmp_path / "run")
    options = EvaluateOptions(
        str(run), str(source), protocols=("knn", "linear", "finetune"), workers=0, linear_epochs=6
    )
    facts = evaluate_dry_run(options)
    assert [path.name for path in (tmp_path / "run").iterdir() if "evaluation" in path.name] == []
    assert facts["source"].endswith("48 images to learn from, 12 images to test on, 3 classes")
    assert facts["protocols"] == "knn, linear (6 epochs), finetune (100 epochs)"
    evaluate(replace(options, protocols=("knn",)), quiet=True)
    assert "holds 2 finished results" in evaluate_dry_run(replace(options, protocols=("knn",)))["note"]


def test_the_command_line_foretells_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nano_runs(monkeypatch)
    done = invoke("pretrain", "shapes:16", "--out", "run", *SMALL, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "16 images" in done.output
    assert not list(tmp_path.iterdir())
    done = invoke("pretrain", "shapes:16", "--out", "run", *SMALL, "--salient-ratio", "0.3", "--dry-run")
    assert done.exit_code == 2
