"""The options of ``pretrain`` say what the settings in ``mae`` and the views would, without importing them."""

from dataclasses import fields
from pathlib import Path

import pytest

from mae.mask_learners.attention import AttentionSettings
from mae.mask_learners.gate import SIGNS
from mae.mask_learners.gate_loss import GateObjective
from mae.mask_learners.gate_reading import READS
from mae.mask_learners.gate_training import GateSettings
from mae.mask_learners.hard import HardSettings
from mae.masks.decoded import DECODER_MASKINGS
from mae.masks.masking import Masking
from mae.masks.strategies import STRATEGIES
from mae.models.sizes import SIZES
from mae.models.video import POSITIONS
from mae.multilevel.draws import PATHS
from mae.multilevel.forms import FORMS, settled
from mae.multilevel.nested import METHODS
from mae.multilevel.settings import CROPS, HEADS, MASKERS, settings_from
from mae.training.settings import PRECISIONS, TrainingSettings
from pipelines.commandline.option import declared_options
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.record.trackers import check_trackers
from pipelines.pretrain.settings import settings_of
from pipelines.views.device_views import AUGMENT_ON
from pipelines.views.joined_maps import ON_MISSING

CHOICES = {
    "masking": tuple(STRATEGIES),
    "gate_sign": tuple(SIGNS),
    "gate_reads": READS,
    "mlo_form": tuple(FORMS),
    "mlo_masker": MASKERS,
    "mlo_path": tuple(PATHS),
    "mlo_head": HEADS,
    "mlo_crops": CROPS,
    "mlo_hypergradient": tuple(METHODS),
    "mlo_pool": ("cls", "mean"),
    "on_missing": ON_MISSING,
    "model": tuple(SIZES),
    "decoder_masking": DECODER_MASKINGS,
    "positions": POSITIONS,
    "precision": PRECISIONS,
    "augment_on": AUGMENT_ON,
    "track": ("tensorboard", "wandb"),
    "salient_of": ("image", "mask", "salient", "salient-only"),
    "salient_pick": ("top", "weighted"),
    "captions": ("first", "all"),
}


def asked(**options):
    return PretrainOptions("shapes:1", Path("run"), **options)


def test_choices_are_those_that_are_taken():
    declared = {each.name: each.choices for each in declared_options(PretrainOptions) if each.choices}
    assert declared == CHOICES
    for choices in ({"on_missing": ON_MISSING}, {"augment_on": AUGMENT_ON}, {"precision": PRECISIONS}):
        for name, values in choices.items():
            for value in values:
                settings_of(asked(**{name: value}))


def test_every_option_has_a_panel_of_a_few_lines_but_where_results_go_and_the_seed():
    panels = {}
    for each in declared_options(PretrainOptions):
        panels.setdefault(each.option.panel, []).append(each.name)
    assert panels.pop(None) == ["source", "out", "seed"]
    assert all(len(names) <= 9 for names in panels.values()), panels


def test_options_that_rows_name_are_options():
    known = {field.name for field in fields(PretrainOptions)}
    for row in STRATEGIES.values():
        assert {*row.options, *row.barred} <= known, row.name


def test_defaults_are_those_of_the_settings():
    found = settings_of(asked(masking="salient"))
    assert found.masking == Masking("salient")
    assert found.training == TrainingSettings()
    gate = GateSettings(objective=GateObjective())
    for name, settings in {
        "gate": gate,
        "attention-high": AttentionSettings(0.0),
        "hard": HardSettings(),
        "mlo": settings_from({}),
    }.items():
        assert settings_of(asked(masking=name)).learner == settings, name


def test_options_of_the_levels_are_those_of_the_forms():
    known = {field.name for field in fields(PretrainOptions) if field.name.startswith("mlo_")}
    assert known == set(settled({}))
    assert set(STRATEGIES["mlo"].options) == known


def test_the_usual_mask_ratio_is_a_videos_or_an_images():
    assert (asked().hidden_share, asked(frames=16).hidden_share, asked(mask_ratio=0.5).hidden_share) == (0.75, 0.9, 0.5)
    assert asked(frames=16).mask_ratio is None
    assert asked(frames=16).recorded()["mask_ratio"] == 0.9


def test_options_of_other_learners_are_checked_too():
    with pytest.raises(ValueError, match="--hard-final is 2"):
        settings_of(asked(hard_final=2.0))
    with pytest.raises(ValueError, match="--mlo-unroll 'x' is not two numbers"):
        settings_of(asked(masking="gate", mlo_unroll="x"))


def test_trackers_are_checked_for_their_packages():
    check_trackers(())
    with pytest.raises(ValueError, match="--track 'x' is not one of: tensorboard, wandb"):
        asked(track=("x",))
