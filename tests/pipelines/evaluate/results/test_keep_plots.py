"""The curve over the share of patches that is kept."""

from PIL import Image

from pipelines.evaluate.results.keep_plots import draw_kept, keep_curves


def table(*named):
    return [{"encoder": name, "knn": accuracy} for name, accuracy in named]


def test_rows_fall_into_curves_by_chooser_and_run():
    found = keep_curves(
        table(
            ("a", 0.9),
            ("a@keep=0.5", 0.7),
            ("a@keep=0.25,gate", 0.6),
            ("a@keep=0.5,random", 0.4),
            ("b@keep=0.5,random", 0.3),
            ("untrained", 0.1),
        ),
        "knn",
    )
    assert found == {
        "gate": {"a": {1.0: 0.9, 0.5: 0.7, 0.25: 0.6}},
        "random": {"a": {1.0: 0.9, 0.5: 0.4}, "b": {0.5: 0.3}},
    }


def test_the_picture_is_drawn_where_shares_were_judged_alone(tmp_path):
    whole = {"protocols": ["knn", "segment"], "rows": table(("a", 0.9), ("untrained", 0.1))}
    draw_kept(tmp_path, whole)
    assert not list(tmp_path.iterdir())
    kept = table(("a@keep=0.5", 0.7), ("a@keep=0.25", 0.6), ("b@keep=0.5", 0.5))
    draw_kept(tmp_path, whole | {"rows": whole["rows"] + kept})
    assert len(Image.open(tmp_path / "keep.png").convert("RGB").getcolors(1 << 20)) > 10
