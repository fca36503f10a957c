import re
from pathlib import Path

import pytest
import torch

from pipelines.compare.arms import built_in_arms
from pipelines.compare.options import CompareOptions
from pipelines.compare.plan import asked_plan, read_plan
from pipelines.errors import UserError
from pipelines.pretrain.settings import settings_of

VARIANTS = ("blocks-2", "class-tokens-8", "visible-loss", "saliency-loss")
LEFT_OUT = ("block", "color-red", "color-blue", "color-purple", "tube", "motion", "frame-difference", *VARIANTS)
"""Strategies and variants that can be arms, and are none where no arms are named."""

GOOD = """
source: shapes:24
saliency: maps/
seeds: [0, 4]
pretrain: {model: tiny, image-size: 32, blr: 1e-3, limit: 20}
evaluate: {source: "shapes:30,split=probe", protocols: [knn], pool: mean}
arms:
  random: {masking: random}
  all: {salient_ratio: 0.75}
  inverse:
"""


def asked(arms, seeds=None, **options):
    return CompareOptions("plan.yaml", Path("out"), arms=arms, seeds=seeds, **options)


@pytest.fixture
def read(tmp_path):
    def reads(text):
        (tmp_path / "plan.yaml").write_text(text)
        return read_plan(tmp_path / "plan.yaml")

    return reads


def test_a_plan(read):
    plan = read(GOOD)
    assert (plan.baseline, plan.seeds, list(plan.arms)) == ("random", (0, 4), ["random", "all", "inverse"])
    options = plan.pretrain_options("all", 4, Path("run"))
    assert (options.masking, options.salient_ratio, options.saliency) == ("salient", 0.75, "maps/")
    assert (options.seed, options.out, options.blr, options.image_size) == (4, Path("run"), 1e-3, (32,))
    assert plan.pretrain_options("random", 0, Path("run")).saliency is None  # it needs no maps
    judged = plan.evaluate_options(4, Path("run"))
    assert (judged.run, judged.seed, judged.protocols, judged.pool) == ("run", 4, ("knn",), "mean")


def test_what_a_plan_leaves_out(read):
    plan = read("{source: shapes:9, arms: [center, block]}")
    assert (plan.seeds, plan.baseline) == ((0, 1, 2), "center")
    assert plan.evaluate_options(1, Path("run")).source == "shapes:9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "the plan: takes names and values, not a list"),
        ("", "the plan: takes names and values, not nothing"),
        ("{arms: [random", "is not YAML"),
        ("{source: a, arms: [random, block], sources: b}", "unknown section 'sources'"),
        ("{arms: [random, block]}", "source: say where"),
        ("{source: a}", "arms: takes names and values, not nothing"),
        ("{source: a, arms: [random]}", "at least two"),
        ("{source: a, arms: [random, random]}", "arms: 'random' is there twice"),
        ("{source: a, arms: {x: {epochs: 1}, x: {epochs: 2}}}", "'x' is there twice"),
        ("{source: a, arms: {x: , random: }}", "arms: 'x' has no options, and is not one of: random"),
        ("{source: a, arms: {no: {epochs: 1}, random: }}", "arms: False is no text; put the name in quotes"),
        ("{source: a, arms: {untrained: {epochs: 1}, random: }}", "'untrained' can't be a name"),
        ("{source: a, arms: {a/b: {epochs: 1}, random: }}", "'a/b' can't be a name"),
        ("{source: a, arms: {x: 3, random: }}", "arms: x: takes names and values, not a int"),
        ("{source: a, arms: {x: {epoch: 3}, random: }}", "arms: x: unknown option 'epoch'; did you mean epochs"),
        ("{source: a, arms: {x: {seed: 3}, random: }}", "arms: x: seed can't be given here: give seeds at the top"),
        ("{source: a, arms: {x: {limit: 3}, random: }}", "limit can't be given here: all arms share it"),
        ("{source: a, pretrain: {out: b}, arms: [random, block]}", "pretrain: out can't be given here"),
        ("{source: a, pretrain: {epochs: many}, arms: [random, block]}", "pretrain: epochs: takes a whole number"),
        ("{source: a, evaluate: {beside: b}, arms: [random, block]}", "evaluate: beside can't be given here"),
        ("{source: a, baseline: x, arms: [random, block]}", "baseline: 'x' is not one of the arms: random, block"),
        ("{source: a, arms: [[]]}", "arms: [] is no text; put the name in quotes"),
        ("{source: a, seeds: [1, 1], arms: [random, block]}", "seeds: [1, 1] is not a number of seeds"),
        ("{source: a, seeds: 0, arms: [random, block]}", "seeds: 0 is not a number"),
        ("{source: a, seeds: all, arms: [random, block]}", "seeds: 'all' is not a number"),
        ("{source: a, saliency: [b], arms: [random, block]}", "saliency: takes the folder"),
        (
            "{source: a, saliency: b, arms: [random, block]}",
            "saliency: --saliency has no effect with --masking random; masks by maps are --masking salient, a gate "
            "takes them as --gate-teacher, and --saliency-weight uses them with any mask; no other arm uses it",
        ),
        (
            "{source: a, saliency: b, pretrain: {temperature: 2}, arms: [random, salient]}",
            "pretrain: --temperature has no effect with --masking random; it belongs to --masking salient",
        ),
        (
            "{source: a, pretrain: {tubelet: 4}, arms: [random, block]}",
            "pretrain: --tubelet has no effect without --fr",
        ),
        (
            "{source: a, evaluate: {radius: 3}, arms: [random, block]}",
            "evaluate: --radius has no effect with --protocol knn and logistic; it is for propagate",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(read, text, message):
    with pytest.raises(UserError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "plan.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{salient_ratio: 0.9}", "arms: x: --salient-ratio 0.9 is above"),
        ("{masking: magic}", "arms: x: --masking 'magic'"),
        ("{batch_size: 0}", "arms: x: --batch-size is 0"),
        ("{masking: random, salient_ratio: 0.5}", "arms: x: --salient-ratio has no effect with --masking random"),
    ],
)
def test_an_arm_that_could_not_run(read, arm, message):
    plan = read(f"{{source: a, saliency: maps, arms: {{x: {arm}, salient: }}}}")
    with pytest.raises(ValueError, match=message):
        plan.pretrain_options("x", 0, Path("run"))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{salient_ratio: 0.5}", r"--salient-ratio has no effect .* salient \(the default with --saliency\)"),
        ("{masking: inverse}", "give saliency: MAPS"),
    ],
)
def test_an_arm_without_its_maps(read, arm, message):
    """Not masked at random unasked, which would compare random with random."""
    plan = read(f"{{source: a, arms: {{x: {arm}, random: }}}}")
    with pytest.raises(ValueError, match=message):
        plan.pretrain_options("x", 0, Path("run"))


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        read_plan(tmp_path / "none.yaml")


def test_what_one_arm_uses_all_may_share(read):
    shared = "{temperature: 2, hard_final: 0.4}"
    arms = "{weighted: {salient_pick: weighted}, hard: {masking: hard}, random: }"
    plan = read(f"{{source: a, saliency: b, pretrain: {shared}, arms: {arms}}}")
    assert plan.narrowed(asked("hard,random")).pretrain == {"temperature": 2.0, "hard_final": 0.4}


def test_places_of_learning_curves(read):
    plan = read(GOOD + "limits: [12, 8]\nlabel_fractions: [10 %, 0.01]")
    assert (plan.limits, plan.label_fractions) == ((8, 12), (0.01, 0.1))
    judged = plan.fraction_options(plan.evaluate_options(4, Path("run")), 0.1)
    assert (judged.label_fraction, judged.file) == (0.1, Path("run/evaluation-labels-0.1.json"))
    for text, message in (
        ("limits: [20]", "limits: 20 is not a number of images from 1 to below the limit of all runs"),
        ("limits: 8", "limits: takes a list of numbers of images, not 8"),
        ("label_fractions: [x]", "label_fractions: takes a list of shares such as 0.01 or 10 %, not ['x']"),
        ("label_fractions: [1]", "label_fractions: 1 does not lie between 0 and the 1 of all runs"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            read(GOOD + text)
    with pytest.raises(UserError, match="label_fractions: --label-fraction has no effect"):
        read(GOOD.replace("[knn], pool: mean", "[propagate]") + "label_fractions: [0.1]")


def test_flags_stand_in_for_a_plan():
    judged = {"test": "t", "protocol": ("knn",), "options": ("--epochs", "3", "--no-norm-pix")}
    plan = asked_plan(CompareOptions("s", Path("out"), seeds="2", saliency="maps", **judged))
    assert list(plan.arms) == [name for name in built_in_arms() if name not in LEFT_OUT]
    assert (plan.seeds, plan.pretrain) == ((0, 1), {"epochs": 3, "norm_pix": False})
    judging = plan.evaluate_options(1, Path("run"))
    assert (judging.source, judging.test, judging.protocols) == ("s", "t", ("knn",))
    with pytest.raises(UserError, match="unknown option 'epoch'"):
        asked_plan(CompareOptions("s", Path("out"), saliency="maps", options=("--epoch", "3")))
    with pytest.raises(UserError, match="'rundom' has no options"):
        asked_plan(CompareOptions("s", Path("out"), arms="rundom,block"))


def test_a_part_of_a_plan(read):
    plan = read(GOOD).narrowed(asked("inverse,random", "7"))
    assert (list(plan.arms), plan.seeds) == (["random", "inverse"], tuple(range(7)))
    assert (plan.power, plan.margin) == (None, None)
    plan = read(GOOD + "power: 2\nmargin: 1.5\n").narrowed(asked(None, margin=0.5))
    assert (plan.power, plan.margin) == (2, 0.5)
    with pytest.raises(UserError, match="margin: 0 is not a number of percentage points above 0"):
        read(GOOD).narrowed(asked(None, margin=0.0))
    with pytest.raises(UserError, match=r"plan.yaml: power: takes a number of percentage points, not 'x'"):
        read(GOOD + "power: x")
    with pytest.raises(UserError, match="'x' is not one of: random, all, inverse"):
        read(GOOD).narrowed(asked("random,x"))
    with pytest.raises(UserError, match="baseline: 'random'"):
        read(GOOD).narrowed(asked("all,inverse"))


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_all_salient_hides_nothing_else_whatever_the_mask_ratio(read, ratio):
    text = f"{{source: a, saliency: maps, pretrain: {{mask_ratio: {ratio}}}, arms: [random, all-salient]}}"
    masking = settings_of(read(text).pretrain_options("all-salient", 0, Path("run"))).masking
    saliency = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    mask = masking(3, (4, 4), generator=torch.Generator().manual_seed(1), saliency=saliency)
    assert int(mask.hidden[0].sum()) == 16 * ratio
    assert saliency[~mask.hidden].reshape(3, -1).amax(1).lt(saliency.masked_fill(~mask.hidden, 2).amin(1)).all()
