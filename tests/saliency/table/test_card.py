import json
import re
import shlex
from dataclasses import replace

import pytest
import yaml
from typer.main import get_command

import cli
from saliency.table.card import CardFacts, build_command, dataset_card, without_folders

SETTINGS = {
    "schema_version": 1, "grid": 14, "clip": "ViT-B-16", "pretrained": "openai", "weights_sha256": "ab" * 32,
    "method": "gradcam", "layer": "ln_1", "fit": "crop", "image_size": 224, "tiles": 2, "precision": "fp32",
    "interpolation": "bicubic", "package_version": "0.1.0", "pairs": 1000, "pairs_sha256": "cd" * 32,
    "shard_size": 512,
}  # fmt: skip
ORIGIN = {"source": "cc3m.tar", "split": "train", "image_column": None, "caption_column": "text", "captions": "all"}
ORIGIN |= {"limit": 1000, "clip": "ViT-B-16", "pretrained": "openai"}
FACTS = CardFacts("me/maps", SETTINGS, ORIGIN, from_hub=False, written=990, rejected=10, shards=2, preview=100)


def header(card):
    return yaml.safe_load(card.split("---")[1])


def test_the_yaml_is_what_the_hub_reads():
    data = header(dataset_card(replace(FACTS, licence="cc-by-4.0")))
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["n<1K"]
    assert {"saliency-mae", "clip", "gradcam"} <= set(data["tags"])
    assert data["configs"] == [
        {"config_name": "maps", "default": True, "data_files": [{"split": "train", "path": "data/train-*.parquet"}]},
        {"config_name": "preview", "data_files": [{"split": "train", "path": "preview/train-*.parquet"}]},
    ]
    assert "source_datasets" not in data
    assert [config["config_name"] for config in header(dataset_card(replace(FACTS, preview=0)))["configs"]] == ["maps"]


@pytest.mark.parametrize(
    ("written", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (3_318_333, "1M<n<10M"), (10**9, "n>1B")],
)
def test_size_category(written, category):
    assert header(dataset_card(replace(FACTS, written=written)))["size_categories"] == [category]


def test_a_hub_source_is_named_as_one():
    card = dataset_card(replace(FACTS, from_hub=True, origin=ORIGIN | {"source": "pixparse/cc3m-wds"}))
    assert header(card)["source_datasets"] == ["pixparse/cc3m-wds"]
    assert "The source is a dataset on the Hub." in card


def test_drawn_scenes_are_said_to_be_drawn():
    card = dataset_card(replace(FACTS, drawn=True, origin={"source": "shapes:50"}))
    assert "The source is scenes that saliency-mae draws." in card


def test_a_name_that_yaml_would_misread():
    name = 'a: "b" #c\n'
    assert header(dataset_card(replace(FACTS, origin={"source": name})))["pretty_name"] == f"Saliency maps of {name}"


def test_every_column_of_the_schema_is_explained():
    from saliency.table.shard import schema

    rows = re.findall(r"^\| (`.*`) \| (\S+)", dataset_card(FACTS), re.M)
    named = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    columns = schema(14, {}).names
    assert named[: len(columns)] == columns
    assert ("`saliency`", "uint8[196]") in rows


def test_the_command_is_the_one_that_was_typed():
    words = shlex.split(build_command(SETTINGS, ORIGIN))
    assert words[:2] == ["mae-cli", "build-saliency"]
    command = get_command(cli.app).commands["build-saliency"]
    given = command.make_context("build-saliency", words[2:]).params
    wanted = {"source": "cc3m.tar", "clip": "ViT-B-16", "pretrained": "openai", "method": "gradcam", "grid": 14}
    wanted |= {"clip_size": 224, "tiles": 2, "precision": "fp32", "fit": "crop", "shard_size": 512, "captions": "all"}
    wanted |= {"limit": 1000, "split": "train", "caption_column": "text", "image_column": None}
    assert {name: given[name] for name in wanted} == wanted


def test_the_shipped_clip_is_not_named():
    words = shlex.split(build_command(SETTINGS | {"clip": "demo", "pretrained": None}, {"source": "shapes:50,size=64"}))
    assert "--clip" not in words
    assert words[2] == "shapes:50,size=64"


def test_every_setting_and_count_is_in_the_card():
    card = dataset_card(FACTS)
    for name, value in SETTINGS.items():
        assert f"| {name} | `{value}` |" in card
    assert "1,000 = 990 + 10, in 2 files" in card
    assert 'load_dataset("me/maps", "preview", split="train")' in card
    assert "mae-cli pretrain IMAGES --saliency me/maps" in card


def test_the_code_in_the_card_runs():
    import sys
    import types

    import numpy as np

    row = {"vmin": 0.5, "scale": 2.0, "saliency": list(range(196))}
    fake = types.SimpleNamespace(load_dataset=lambda *_, **__: [row])
    code = re.search(r"```python\n(.*?)```", dataset_card(FACTS), re.S)[1]
    known, names = sys.modules.get("datasets"), {}
    try:
        sys.modules["datasets"] = fake
        exec(code, names)
    finally:
        sys.modules.pop("datasets")
        if known is not None:
            sys.modules["datasets"] = known
    np.testing.assert_allclose(names["raw"], 0.5 + 2 * np.arange(196).reshape(14, 14) / 255)


def test_maps_nobody_judged_are_called_so():
    assert "Not scored" in dataset_card(FACTS)
    assert "Not scored" in dataset_card(replace(FACTS, quality={}))


def test_figures_become_tables():
    estimate = {"mean": 0.8125, "low": 0.75, "high": 0.875}
    quality = {
        "seen": 1234,
        "no_shuffle": None,
        "skipped": {"pairs": 2, "first": ["key", "reason"]},
        "statistics": {"entropy": estimate | {"low": None, "high": None}},
        "figures": {"maps": {"pointing": estimate, "iou": estimate}, "centre_prior": {"pointing": estimate}},
        "verdict": "The maps | beat\nthe centre prior.",
        "beats_centre_prior": {"pointing": True},
        "odd": [1, 2],
    }
    card = dataset_card(replace(FACTS, quality=quality))
    assert "Not scored" not in card
    assert "| seen | 1,234 |" in card
    assert "| skipped: pairs | 2 |" in card
    assert "| statistics: entropy | 0.812 |" in card
    assert "| maps | 0.812 [0.750, 0.875] | 0.812 [0.750, 0.875] |" in card
    assert "| centre prior | 0.812 [0.750, 0.875] | — |" in card
    assert "| verdict | The maps \\| beat the centre prior. |" in card
    assert "| beats centre prior: pointing | yes |" in card
    assert "odd" not in card


def test_what_a_judgement_writes_is_shown():
    """The figures as ``inspect --json`` has them."""
    from pipelines.inspect.map_verdict import Estimate, MapScores

    estimate = Estimate(0.5, 0.4, 0.6)
    judged = MapScores(10, 9, 8, {"entropy": estimate}, {"empty": 0.1}, {"maps": {"pointing": estimate}})
    card = dataset_card(replace(FACTS, quality=json.loads(json.dumps(judged.to_json()))))
    assert "| maps | 0.500 [0.400, 0.600] |" in card
    assert "| kinds: empty | 0.100 |" in card
    assert "| statistics: entropy | 0.500 [0.400, 0.600] |" in card


def test_figures_without_masks_are_called_so():
    card = dataset_card(replace(FACTS, quality={"seen": 9, "figures": {}, "statistics": {"entropy": 0.5}}))
    assert "There were no true masks" in card
    assert "| statistics: entropy | 0.500 |" in card
    assert "No true masks" not in dataset_card(replace(FACTS, quality={"seen": 9}))


def test_the_licence_says_whose_pixels_are_shown():
    assert "It has no images, and the preview shows only maps." in dataset_card(FACTS)
    assert "It has no images." in dataset_card(replace(FACTS, preview=0))
    shown = dataset_card(replace(FACTS, pixels="photos"))
    assert "100 images of at most 256 pixels" in shown
    assert "--with-images" in shown
    assert "drawn by saliency-mae" in dataset_card(replace(FACTS, pixels="scenes"))
    assert "No licence was chosen" in dataset_card(FACTS)
    assert "licence of the maps is `cc-by-4.0`" in dataset_card(replace(FACTS, licence="cc-by-4.0"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/pairs", "pairs"),
        ("/home/me/pairs/", "pairs/"),
        ("~/pairs/{00..31}.tar", "{00..31}.tar"),
        (r"C:\Users\me\x.png", "x.png"),
        ("[Errno 2] No such file: '/home/me/a.png'", "[Errno 2] No such file: 'a.png'"),
        ("local-dir:/home/me/clip", "local-dir:clip"),
        ("local-dir:../clip", "local-dir:clip"),
        ("hf-hub:user/clip", "hf-hub:user/clip"),
        ("user/dataset", "user/dataset"),
        ("shapes:50,split=test", "shapes:50,split=test"),
        ("see https://a.b/c/d.html", "see https://a.b/c/d.html"),
        ("1 of 3", "1 of 3"),
        (14, 14),
        (None, None),
        ({"a": ["/home/me/b", {"c": "/d/e"}]}, {"a": ["b", {"c": "e"}]}),
    ],
)
def test_paths_are_cut_to_their_last_part(text, shown):
    assert without_folders(text) == shown
