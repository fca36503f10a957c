"""Options that change what is hidden together, what the encoder holds or what the loss counts, as whole runs.

Each goes with resuming, learners, videos, a part decoded and small images first, and can be an arm of a comparison.
"""

from dataclasses import replace

import pytest

from pipelines.compare.plan import plan_from
from pipelines.compare.report import masks_in_words
from pipelines.errors import UserError
from pipelines.export.model_card import run_facts
from pipelines.inspect.run import describe_run
from pipelines.sources.open_source import open_clips, open_source
from tests.pipelines.pretraining import SMALL, SOURCE, assert_same_weights, invoke, losses, nano_runs, run, stopping
from tests.tiny_mae import write_maps

VARIANTS = {
    "granularity": {"mask_granularity": 2},
    "class tokens": {"class_tokens": 8},
    "visible": {"visible_weight": 0.5},
    "rise": {"saliency_weight_schedule": "rise", "saliency_weight": 1.0},
}
WORDS = {
    "mask_granularity": ("blocks of 2×2 patches", "mask_granularity", "blocks of 2×2"),
    "visible_weight": ("visible_weight", "hidden, visible errors 0.5"),
    "saliency_weight_schedule": ("saliency_weight_schedule", "hidden, errors 1 by saliency, its weight rises"),
    "class_tokens": ("parameters, 8 class tokens", "class_tokens", "hidden, 8 class tokens"),
}
"""What ``inspect``, the model card and a comparison say of the first option."""
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture
def base(base, tmp_path):
    return replace(base, image_size=(32,), saliency=write_maps(tmp_path / "maps", open_source(SOURCE)))


def test_a_stopped_run_with_all_of_them_goes_on_to_the_bit(base, tmp_path):
    every = {name: value for variant in VARIANTS.values() for name, value in variant.items()}
    base = replace(base, masking="gate", accumulate=2, epochs=2, decode_ratio=0.5, **every)
    whole, stopped = run(base), replace(base, out=tmp_path / "stopped")
    with stopping(4), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert losses(run(replace(stopped, resume=True))) == losses(whole)
    assert_same_weights(stopped.out, base.out)
    for name, other in {"mask_granularity": 1, "class_tokens": 1, "visible_weight": 1.0}.items():
        with pytest.raises(UserError, match=f"started with other settings .*{name}"):
            run(replace(stopped, resume=True, **{name: other}))


@variants
@pytest.mark.parametrize("masking", ["salient", "hard", "attention-hint"])
def test_it_goes_with_small_images_first(base, masking, variant):
    options = replace(base, masking=masking, image_size=(48,), resolution_schedule="0:32,0.5:48", epochs=2)
    assert len(run(replace(options, **variant)).metrics()) == 12


@variants
def test_it_goes_with_videos(base, tmp_path, variant):
    clips = {"source": "shapes-video:8,size=32,frames=16", "frames": 4, "mask_ratio": 0.5, "masking": "random"}
    maps = write_maps(tmp_path / "clips", open_clips(clips["source"]))
    options = replace(base, epochs=1, decode_ratio=0.5, decoder_masking="running-cell", saliency=maps, **clips)
    assert len(run(replace(options, **variant)).metrics()) == 2


@variants
def test_it_is_told_where_runs_are_described(base, variant):
    base = replace(base, epochs=1)
    done = run(replace(base, **variant))
    told = " ".join([str(describe_run(done)[0]), *run_facts(done.folder), masks_in_words(replace(base, **variant))])
    for word in WORDS[next(iter(variant))]:
        assert word in told
    plain = run(replace(base, out=base.out.parent / "plain"))
    assert not set(variant) & set(" ".join(run_facts(plain.folder)).split())
    assert losses(plain) != losses(done)


def test_the_gate_weighs_the_loss_without_maps(base, tmp_path):
    weighs = {"masking": "gate", "gate_ratio": 0.0, "saliency_weight": 1.0, "weight_by": "gate"}
    base = replace(base, saliency=None, epochs=2, accumulate=2, **weighs)
    whole, stopped = run(base), replace(base, out=tmp_path / "stopped")
    with stopping(4), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert losses(run(replace(stopped, resume=True))) == losses(whole)
    told = " ".join([*run_facts(base.out), masks_in_words(base)])
    assert "weight_by" in told
    assert "hidden, errors 1 by the gate" in told
    clips = {"source": "shapes-video:8,size=32,frames=16", "frames": 4, "mask_ratio": 0.5, "epochs": 1}
    assert len(run(replace(base, out=tmp_path / "clips", accumulate=1, **clips)).metrics()) == 2
    arms = {"random": None, "x": dict(weighs), "y": weighs | {"weight_by": "maps"}}
    plan = plan_from({"source": SOURCE, "saliency": "maps", "arms": arms})
    assert [plan.pretrain_options(arm, 0, tmp_path).saliency for arm in ("x", "y")] == [None, "maps"]


@variants
def test_it_is_an_arm(variant):
    maps = {"saliency": "maps"} if "saliency_weight" in variant else {}
    plan = plan_from({"source": SOURCE, "arms": {"random": None, "x": {"masking": "random"} | variant}} | maps)
    options = plan.pretrain_options("x", 0, plan.source)
    assert {name: getattr(options, name) for name in variant} == variant


def test_compare_knows_them_by_name():
    names = ("blocks-2", "class-tokens-8", "visible-loss", "saliency-loss")
    plan = plan_from({"source": SOURCE, "saliency": "maps", "arms": ["random", *names]})
    for name, variant in zip(names, VARIANTS.values(), strict=True):
        options = plan.pretrain_options(name, 0, plan.source)
        assert options.masking == "random"
        assert {each: getattr(options, each) for each in variant} == variant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask-granularity", 0], "--mask-granularity is 0; it must be at least 1"),
        (["--mask-granularity", 2, "--image-size", 24], "--mask-granularity 2 does not divide the grid of 3×3 patches"),
        (["--class-tokens", 0], "--class-tokens is 0; it must be at least 1"),
        (["--class-tokens", 2000], "--class-tokens is 2000; it must be at most 1024"),
        (
            ["--class-tokens", 2, "--frames", 4, "--inflate", "."],
            "--inflate takes patches, class tokens and decoder as",
        ),
        (["--visible-weight", -1], "--visible-weight is -1; it must be a number from 0 on"),
        (["--visible-weight", "inf"], "--visible-weight is inf; it must be a number from 0 on"),
        (["--visible-weight", 1, "--masking", "mlo"], "--visible-weight is not for --masking mlo: leave it out"),
        (["--saliency-weight-schedule", "rise"], "has no effect without --saliency-weight; there is no weight to move"),
        (["--saliency-weight", 1, "--saliency-weight-schedule", "up"], "--saliency-weight-schedule 'up' is not one of"),
        (["--weight-by", "gate", "--masking", "gate"], "--weight-by has no effect without --saliency-weight; there is"),
        (["--saliency-weight", 1, "--weight-by", "gate"], "--weight-by gate needs --masking gate; with --gate-ratio 0"),
        (["--saliency-weight", 1, "--weight-by", "text"], "--weight-by 'text' is not one of: maps, gate"),
        (["--mask-granularity", 2, "--masking", "mlo"], "--mask-granularity is not for --masking mlo: leave it out"),
        (
            ["--mask-granularity", 2, "--image-size", 32, "--resolution-schedule", "0:24,0.5:32", "--epochs", 2],
            "--mask-granularity 2 does not divide the grid of 3×3 patches; here it can be 1 or 3",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, arguments, message):
    nano_runs(monkeypatch)
    result = invoke("pretrain", SOURCE, "--out", tmp_path / "run", *SMALL, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr
    assert not (tmp_path / "run").exists()
