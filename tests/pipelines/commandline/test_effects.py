"""An option that has no effect is refused in one line that names it and what decides that; each command, each row."""

from dataclasses import fields, replace

import pytest
from typer.testing import CliRunner

import cli
import saliency_mae as sm
from mae.masks.strategies import STRATEGIES
from pipelines.build.options import BuildOptions
from pipelines.commandline.effects import check_effects, idle_options
from pipelines.commandline.mask_options import SALIENT
from pipelines.commandline.option import declared_options
from pipelines.compare.options import CompareOptions
from pipelines.pretrain.learner_options import ATTENTION, CUSTOM, GATE, HARD
from pipelines.pretrain.multilevel.options import LEVELS
from pipelines.pretrain.options import PretrainOptions
from tests.pipelines.pretraining import losses, nano_options, run
from tests.test_cli import KINDS

PRETRAIN = [
    ("--salient-ratio 0.25", "with the default --masking random; it belongs to --masking salient (the default with"),
    ("--salient-ratio 0.5 --masking random", "with --masking random; it belongs to --masking salient"),
    ("--masking random --saliency maps", "with --masking random; masks by maps are --masking salient, a gate"),
    (
        "--masking gate --saliency maps",
        "with --masking gate; masks by maps are --masking salient, a gate",
    ),
    (
        "--gate-ratio 0.5 --saliency maps",
        "with --masking salient, the default with --saliency; it belongs",
    ),
    ("--gate-teacher maps --masking mlo", "with --masking mlo; it belongs to --masking gate"),
    ("--temperature 1 --saliency maps", "with --salient-pick top; it belongs to --salient-pick weighted"),
    (
        "--salient-mass 0.5 --saliency maps",
        "with --salient-of image; it belongs to --salient-of salient, --salient-of salient-only and --salient-cap",
    ),
    ("--salient-ratio 0.3 --salient-schedule 0:0.5 --saliency maps", "with --salient-schedule; the schedule sets"),
    ("--mlo-head-rate 0.1 --masking mlo", "with --mlo-head solved; a solved head takes no steps"),
    ("--mlo-buffer 64 --masking mlo --mlo-head steps", "with --mlo-head steps; it belongs to a solved head"),
    ("--mlo-split 0.2 --masking hard", "with --masking hard; it belongs to --masking mlo"),
    ("--hard-final 0.5 --masking attention-high", "with --masking attention-high; it belongs to --masking hard"),
    ("--attention-shown 0.1 --masking attention-high", "with --masking attention-high; it belongs to --masking att"),
    ("--tubelet 2", "without --frames; it belongs to videos"),
    ("--frame-stride 4", "without --frames; it belongs to videos"),
    ("--positions table", "without --frames; it belongs to videos"),
    ("--no-tubes --frames 4 --masking tube", "with --masking tube; its masks are the same in every time slot"),
    ("--decoder-masking random --frames 4", "without --decode-ratio; nothing is left out of the decoder"),
    ("--on-missing random --masking block", "without --saliency; leave it out"),
    ("--captions all --frames 4", "with --frames; a clip has one caption"),
    ("--model base --frames 4 --inflate run", "with --inflate; the image model sets the size"),
]
OTHERS = [
    (
        "evaluate run a --linear-epochs 9",
        "--linear-epochs has no effect with --protocol knn and logistic; it is",
    ),
    (
        "evaluate run a --protocol logistic --neighbours 9",
        "--neighbours has no effect with --protocol logistic",
    ),
    (
        "evaluate run a --protocol segment --radius 3",
        "--radius has no effect with --protocol segment",
    ),
    ("evaluate run a --protocol propagate --occluder block", "--occluder has no effect with --protocol propagate"),
    ("evaluate run a --test-limit 3", "--test-limit has no effect without --test; leave it out"),
    (
        "evaluate run a --test b --test-fraction 0.2",
        "--test-fraction has no effect with --test; all of that",
    ),
    ("evaluate run a --protocol segment --pool mean", "--pool has no effect with --protocol segment; it is for knn"),
    ("evaluate run a --protocol finetune --pool cls", "--pool has no effect with --protocol finetune; it is for knn"),
    (
        "evaluate run a --protocol propagate --label-fraction 0.5",
        "--label-fraction has no effect with --protocol propagate; it is for knn and logistic and linear and "
        "attentive and finetune and occlusion and segment",
    ),
    (
        "evaluate run a --protocol occlusion --occluder block --occluder random --occluder-maps maps",
        "--occluder-maps has no effect with --occluder block and random; it belongs to --occluder salient or non-sal",
    ),
    ("evaluate timm:x a --fresh", "--fresh has no effect without --out; nothing is kept of timm:x"),
    ("build-saliency a --out b --clips --captions all", "--captions has no effect with --clips; a clip has one"),
    (
        "build-saliency a --out b --clip hf-hub:a/b --pretrained openai",
        "--pretrained has no effect with --clip hf-hub:a/b; that model has weights of its own",
    ),
    (
        "build-saliency shapes:4 --out b --pretrained openai",
        "--pretrained has no effect with the bundled model for shapes:4; that model has",
    ),
    ("build-saliency a --out b --ray-workers 2", "--ray-workers has no effect with --engine local; leave it out"),
    ("inspect maps --gallery-size 3", "--gallery-size has no effect without --gallery; leave it out"),
    (
        "inspect shapes:4 --limit 3",
        "--limit has no effect with shapes:4; it belongs to maps, to --gate",
    ),
    (
        "inspect shapes:4 --source b",
        "--source has no effect with shapes:4; it belongs to maps, to --gate",
    ),
    ("verify maps a --sample 0 --seed 3", "--seed has no effect with --sample 0; nothing is drawn"),
    ("publish maps me/x --dry-run there --private", "--private has no effect with --dry-run; nothing is uploaded"),
    ("publish maps me/x --source a", "--source has no effect without --with-images; leave it out"),
    ("verify maps --sample 3", "--sample has no effect without a SOURCE; give the images"),
    ("reconstruct run a.png --out b --box 0,0,1,1 --lossless", "--lossless has no effect with a.png; it is for videos"),
    ("encode run a.png --out b --fps 3", "--fps has no effect with a.png; it is for videos"),
    ("encode run a.png --out b --as-video", "--as-video has no effect with a.png; it is for folders of frames"),
]
LINES = [(f"pretrain a --out b {words}", f"{words.split()[0]} has no effect {why}") for words, why in PRETRAIN]


def lead(words, message):
    """The option that a line is about, for the cases in which it is not the first."""
    return message.replace("--masking has", "--saliency has").replace("--no-tubes", "--tubes")


@pytest.mark.parametrize(("line", "message"), [(line, lead(line, message)) for line, message in (*LINES, *OTHERS)])
def test_one_line_and_exit_code_2(line, message):
    done = CliRunner().invoke(cli.app, line.split())
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "--saliency maps --masking random --saliency-weight 1",
        "--saliency maps --masking gate --saliency-weight 0.5 --gate-teacher maps --on-missing random",
        "--saliency maps --salient-pick weighted --temperature 2 --salient-of salient --salient-mass 0.3",
        "--masking center --salient-ratio 0.3",
        "--masking mlo --mlo-split 0.3",
        "--frames 4 --tubelet 2 --no-tubes --masking gate --gate-ratio 0.4",
        "--tubes",  # a flag that is on already says nothing
    ],
)
def test_what_has_an_effect_is_taken(words):
    done = CliRunner().invoke(cli.app, ["pretrain", "nowhere", "--out", "b", *words.split()])
    assert "has no effect" not in done.stderr
    assert "error: " in done.stderr  # there is no such source


def test_python_is_told_the_same():
    with pytest.raises(sm.UserError, match="--salient-ratio has no effect with the default --masking random"):
        sm.pretrain("shapes:8", out="run", salient_ratio=0.25)


@pytest.mark.parametrize(
    ("strategy", "options", "why"),
    [
        ("random", {"ratio": 0.5}, "--salient-ratio has no effect with --masking random; it belongs to"),
        ("salient", {"temperature": 0.5}, "--temperature has no effect with --salient-pick top"),
        ("tube", {"tubes": False}, "--tubes has no effect with --masking tube"),
    ],
)
def test_masks_of_a_loop_of_ones_own_are_told_too(strategy, options, why):
    with pytest.raises(sm.UserError, match=why):
        sm.mask(strategy, **options)


def test_maps_that_were_begun_with_weights_that_nothing_reads_go_on(tmp_path):
    options = BuildOptions("shapes:4", tmp_path, pretrained="openai")
    assert not options.takes_weights
    (tmp_path / "manifest.json").touch()
    assert options.takes_weights


def test_a_run_with_an_idle_option_is_resumed_without_it(tmp_path, nano):
    """A version that did not refuse it has written it down."""
    base = nano_options(tmp_path / "run")
    run(replace(base, epochs=2, temperature=3.0, frame_stride=2, gate_ratio=0.1))
    with pytest.raises(sm.UserError, match="epochs"):
        run(replace(base, resume=True))
    assert len(losses(run(replace(base, epochs=2, resume=True)))) == 12


def test_the_panels_of_the_help_follow_the_table():
    """An option under a heading of some masks belongs to these masks, and the other way round."""
    idle = {name for name, _ in idle_options(PretrainOptions("a", "b"))}
    for option in declared_options(PretrainOptions):
        belongs = any(option.name in row.options for row in STRATEGIES.values())
        assert (option.option.panel in (SALIENT, GATE, ATTENTION, HARD, CUSTOM, *LEVELS)) == belongs, option.name
        assert not belongs or option.name in idle


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if hasattr(kind, "effects")])
def test_rows_name_options(kind):
    known = {field.name for field in fields(kind)}
    for effect in kind.effects:
        assert known.issuperset(effect.options)


WITH_ANY_OTHER = {
    *("source", "out", "masking", "mask_ratio", "saliency_weight", "image_size", "patch_size", "decoder_width"),
    *("decoder_depth", "decode_ratio", "frames", "resolution_schedule", "norm_pix", "batch_size", "accumulate"),
    *("epochs", "blr", "weight_decay", "warmup_epochs", "precision", "compile", "deterministic", "shard_model"),
    *("seed", "workers", "checkpoint_every", "keep", "resume", "track", "augment_on", "max_rejected"),
    *("image_column", "caption_column", "limit", "split", "allow_outside", "device"),
    *("visible_weight", "class_tokens", "mask_granularity", "health_every"),
}
"""Options of ``pretrain`` that have an effect, or are refused, whatever else is asked for."""


def test_every_option_of_pretrain_has_a_row_or_needs_none():
    rows = {name for effect in PretrainOptions.effects for name in effect.options}
    assert rows.isdisjoint(WITH_ANY_OTHER)
    assert rows | WITH_ANY_OTHER == {each.name for each in declared_options(PretrainOptions)}


def test_a_table_is_not_needed():
    check_effects(CompareOptions("a", "b"), {"what"})
