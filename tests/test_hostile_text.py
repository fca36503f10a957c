"""One hostile name, wherever a text of strangers is shown: nothing happens to a terminal, a card or a plot."""

import json
import shlex

import numpy as np
import pytest
import typer
from markdown_it import MarkdownIt

from pipelines.commandline.terminal import fail, guarded, print_facts, say, say_next, warn
from pipelines.compare import comparison, report
from pipelines.compare.compare import _line
from pipelines.compare.plan import ComparePlan
from pipelines.compare.unit import Unit, UnitOutcome
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.results.printed import print_evaluation, remarks
from pipelines.export.model_card import model_card
from pipelines.inspect.map_verdict import CENTRE, FIGURES, MAPS, Estimate, MapScores, print_map_scores
from pipelines.plots import confusion_matrices, contact_sheet
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.record import trackers
from saliency.shown import code_span, markdown, markdown_table
from saliency.table.card import CardFacts, build_command, dataset_card

NAME = "[/b]\x1b[31m`<script>`![x](http://e)`\n# h $x"
LIVE = {"html_inline", "html_block", "image", "link_open"}


def tokens(text):
    found = MarkdownIt("commonmark").enable("table").parse(text)
    return [each for token in found for each in (token, *(token.children or ()))]


def inert(text, headings=None):
    """Whether nothing of NAME came to life in a Markdown text, and which headings it has."""
    found = tokens(text.removeprefix("---\n").partition("\n---\n")[2] if text.startswith("---\n") else text)
    assert "\x1b" not in text
    assert not LIVE & {token.type for token in found}
    titles = [found[i + 1].content for i, token in enumerate(found) if token.type == "heading_open"]
    assert "h $x" not in titles
    return titles


def shown(capsys):
    """What is on the terminal, stdout and stderr; nothing in it is a control character."""
    text = "".join(capsys.readouterr())
    assert all(character.isprintable() or character == "\n" for character in text)
    return text


@pytest.mark.parametrize("text", [NAME, "`", "``a` b", "|", "\\|", "a\\", "_x_ __y__", "$a$ $b$", "&lt;b&gt;", "~~x~~"])
def test_helpers_give_back_the_text_and_no_markup(text):
    plain = " ".join(text.replace("\x1b", "\\x1b").split())
    inline = tokens(markdown(text))[1].children
    assert "".join(token.content for token in inline) == plain
    assert {token.type for token in inline} <= {"text", "text_special"}
    [code] = tokens(code_span(text))[1].children
    assert (code.type, code.content) == ("code_inline", plain)
    table = tokens("\n".join(markdown_table([["a", "b"], [markdown(text), code_span(text)]])))
    cells = [token for token in table if token.type == "inline"]
    assert len(cells) == 4
    assert "".join(each.content for each in cells[2].children) == plain


def test_words_stay_readable():
    assert markdown("image_size of ViT-B-16, 0.5") == "image_size of ViT-B-16, 0.5"


def test_lines_on_the_terminal(capsys):
    print_facts({NAME: NAME}, title="facts")
    say(NAME)
    warn([NAME])
    say_next("pretrain", NAME)
    for error in (UserError(NAME), OSError(13, "Permission denied", NAME)):
        with pytest.raises(typer.Exit):
            guarded(lambda error=error: (_ for _ in ()).throw(error))()
    with pytest.raises(typer.Exit):
        fail(NAME, 2)
    text = shown(capsys)
    assert text.count("[/b]\\x1b[31m") == 8
    assert text.count("\nerror: ") == 3
    assert "\nwarning: [/b]\\x1b[31m`<script>`![x](http://e)` # h $x\n" in text, "one line"


def test_a_tracker_that_fails(capsys):
    trackers._warn("wandb", RuntimeError(NAME))
    assert shown(capsys).count("\n") == 1


def evaluation():
    rows = [
        {"encoder": NAME, "knn": 0.5, "knn_interval": 0.1, "knn_confusion": [[1, 3], [2, 0]]},
        {"encoder": NAME, "knn": 0.4, "knn_interval": 0.1, "knn_confusion": [[1, 3], [2, 0]]},
    ]
    return {
        **{"rows": rows, "protocols": ["knn"], "test_images": 6, "train_images": 9, "classes": 2, "chance": 0.5},
        **{"seeds": [0], "label_fraction": 1, "unreadable": [NAME], "class_names": [NAME, "b"], "pool": NAME},
        **{"source": NAME, "test": NAME},
    }


def test_an_evaluation_on_the_terminal(capsys):
    """Markup in a name once ended the command in a traceback, after all its work."""
    print_evaluation(evaluation())
    for line in remarks(evaluation()):
        say(line)
    text = shown(capsys)
    assert "[/b]" in text
    assert "50.0 ± 10.0" in text


def test_curves_of_occlusion_on_the_terminal(capsys):
    curve = {"accuracy": [0.5], "area": 0.5, "area_ends": [0.4, 0.6]}
    row = {"encoder": NAME, "occlusion": 0.5, "occlusion_interval": None}
    row |= {"occlusion_curves": {"slab": curve}, "occlusion_shares": [0.5]}
    print_evaluation(evaluation() | {"rows": [row], "protocols": ["occlusion"]})
    assert shown(capsys).count("[/b]") == 2


def test_scores_of_maps_on_the_terminal(capsys):
    figures = dict.fromkeys(FIGURES, Estimate(0.5, 0.4, 0.6))
    print_map_scores(MapScores(1, 1, 1, {}, figures={MAPS: figures}, differences={CENTRE: figures}, no_shuffle=NAME))
    assert "[/b]" in shown(capsys)


CONFIG = {
    "options": {"source": "x", "model": "mini", "image_size": [32]},
    "images": 3,
    "keys_sha256": "0",
    "masking": {"strategy": "random", "mask_ratio": 0.75},
    "grid": [2, 2],
    "parameters": 9,
    "steps": 9,
    "precision": "fp32",
    "versions": {"torch": "2"},
}
"""``config.json`` of a run."""


def test_the_card_of_a_model(tmp_path):
    options = {"source": f"/x/{NAME}", "saliency": NAME, "model": NAME, "masking": "salient", "image_size": [32]}
    config = CONFIG | {"options": options, "precision": NAME, "masking": {"strategy": "salient", "mask_ratio": 0.75}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    card = model_card(tmp_path, {NAME: NAME}, "timm", f"open({NAME!r})\n```\n# h")
    assert inert(card) == ["Masked autoencoder", "Model", "Training", "Results"]
    assert "50.0 ± 10.0" in card


def test_the_card_of_a_table():
    settings = {"grid": 7, "method": NAME, "clip": NAME, NAME: NAME}
    quality = {NAME: NAME, "figures": {NAME: {NAME: 0.5}}, "facts": {NAME: NAME}}
    facts = CardFacts(
        "me/maps", settings, {"source": NAME, "split": NAME}, False, 5, 1, 1, licence=NAME, quality=quality
    )
    assert inert(dataset_card(facts))[1:] == [
        *(
            "How to load them",
            "What a row is",
            "How they were made",
            "How good they are",
            "Licence",
            "Limits",
            "Citation",
        )
    ]
    assert len(shlex.split(build_command(settings, {"source": NAME}))) == 11
    assert "\n" not in build_command(settings, {"source": NAME})


def test_the_report_of_a_comparison(tmp_path, capsys):
    plan = ComparePlan(
        NAME, {"a": {"masking": "random"}, "b": {"masking": "block"}}, "a", (0,), pretrain={"split": NAME}
    )
    pretrained = PretrainOptions(NAME, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    unit = Unit("a", 0, pretrained, EvaluateOptions("run", NAME, protocols=("knn",)), tmp_path / "record.json")
    record = {"result": evaluation(), "pretrain_seconds": 1, "evaluate_seconds": 1}
    failed = UnitOutcome(unit, None, 1.0, failed=NAME)
    found = comparison.summarise(plan, [UnitOutcome(unit, record, 1.0), failed])
    text = report._report(found, tmp_path, {"device": NAME}, [f"The masks were not drawn: {NAME}"])
    assert "What was run" in inert(text)
    assert text.count("script") >= 6
    say(_line(failed, 1, 1, 1.0))
    comparison.print_comparison(found)
    assert "FAILED: [/b]" in shown(capsys)


def test_plots(tmp_path):
    """An odd number of dollar signs is no formula, and two are none either; a crash would come at the very end."""
    for name in (NAME, r"$\frac{$", "$\\x$"):
        contact_sheet(tmp_path / "sheet.png", {name: [np.zeros((4, 4), np.float32)], "b": [name]}, title=name)
        confusion_matrices(tmp_path / "confusion.png", {name: [[1, 0], [0, 1]]}, [name, "b"], title=name)
    assert (tmp_path / "confusion.png").stat().st_size
