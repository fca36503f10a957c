import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mae.masks.masking import Masking
from mae.training.checkpoints import save_checkpoint
from mae.training.settings import TrainingSettings
from mae.training.training import Training
from pipelines.errors import UserError
from pipelines.evaluate import data, leaks
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate
from pipelines.sources.images import decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.views.clip_views import ClipShape
from pipelines.views.duplicates import grey_version
from pipelines.views.labelled import unlabelled
from tests.pipelines.pretraining import invoke
from tests.tiny_mae import nano


def recoded(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file).convert("RGB")


PLANTED = {
    "exact": lambda image: image,
    "recoded": recoded,
    "resized": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
    "mirrored": lambda image: recoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def tree(folder, pictures):
    """A class tree of two classes that take turns."""
    for number, (name, picture) in enumerate(pictures.items()):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"class{number % 2}" / f"{name}.png")
    return str(folder)


@pytest.fixture
def planted(tmp_path):
    """A run, what it learned from, and labelled pictures whose test part has four copies of training images."""
    source = open_source("shapes:40,size=64")
    pictures = [decode_rgb(source.read_image(i)) for i in range(40)]
    test = {name: change(pictures[i]) for i, (name, change) in enumerate(PLANTED.items())}
    test |= {f"new{i}": pictures[i] for i in range(30, 36)} | {"flat": Image.new("RGB", (64, 64), (9, 9, 9))}
    before = tree(tmp_path / "before", {"mine": recoded(pictures[31])} | {f"b{i}": pictures[i] for i in range(36, 40)})
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "run", Training(nano(16), Masking(), TrainingSettings(), 1))
    record = {"options": {"source": before, "limit": None, "split": None}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    train = tree(tmp_path / "train", {f"{i:02d}": pictures[i] for i in range(24)})
    return tmp_path / "run", train, tree(tmp_path / "test", test)


SHARED = {
    "train": {"images": 11, "compared": 10, "found": 4},
    "pretraining": {"images": 11, "compared": 10, "found": 1, "examples": [["class1/new31.png", "class0/mine.png"]]},
}


def test_planted_copies_are_told_and_kept(planted, monkeypatch):
    run, train, test = planted
    read = []
    monkeypatch.setattr(leaks, "hash_part", lambda *asked: read.append(asked) or data.hash_part(*asked))
    monkeypatch.setattr(data, "hash_part", data.hash_part)  # of the parts, which the protocols read: it is not called
    command = ("evaluate", run, train, "--test", test, "--workers", 0, "--protocol", "knn", "--leaks", "pretraining")
    for times in (1, 1):  # the second time all of it is known
        printed = invoke(*command)
        assert printed.exit_code == 0, printed.output
        text = " ".join(printed.stdout.split())
        assert "4 of 11 test images have a near-duplicate among the training images: class" in text
        assert "1 of 11 test images has a near-duplicate among the images of the run's pretraining: class1" in text
        found = json.loads((run / "evaluation.json").read_text())["leaks"]
        pairs = dict(found["train"].pop("examples"))
        assert found == SHARED
        names = [(Path(mine).stem, Path(theirs).stem) for mine, theirs in pairs.items()]
        assert len(names) == 2
        assert set(names) <= {(name, f"{i:02d}") for i, name in enumerate(PLANTED)}
        assert len(read) == times


def test_what_no_protocol_reads_is_read_for_it(planted):
    run, train, test = planted
    options = EvaluateOptions(str(run), train, test, protocols=("linear",), linear_epochs=1, workers=0, untrained=False)
    assert {name: evaluate(options, quiet=True)["leaks"]["train"][name] for name in SHARED["train"]} == SHARED["train"]


@pytest.mark.parametrize("source", ["itself", "shapes:40,size=32"])
def test_where_nothing_is_compared(planted, source):
    run, train, _ = planted
    source = train if source == "itself" else source
    (run / "config.json").write_text(json.dumps({"options": {"source": source, "limit": None, "split": None}}))
    wanted = {"workers": 0, "untrained": False, "protocols": ("knn",), "neighbours": 3}
    off = evaluate(EvaluateOptions(str(run), source, leaks="off", **wanted), quiet=True)
    assert "leaks" not in off
    result = evaluate(EvaluateOptions(str(run), source, leaks="pretraining", **wanted), quiet=True)
    if source == train:
        tested = result["test_images"]
        assert result["leaks"]["pretraining"] == {"held_out": True, "images": tested, "found": tested}
        assert "it saw them" in leaks.leak_lines(result)[1]
    else:
        assert "leaks" not in result
    (run / "config.json").unlink()
    with pytest.raises(UserError, match="no record of the images it was pretrained on"):
        evaluate(EvaluateOptions(str(run), source, leaks="pretraining", **wanted), quiet=True)


def test_clips_look_like_their_middle_frames():
    part = unlabelled(open_source("shapes-video:2,size=32,frames=5", clips=True))
    part = type(part)(part.source, part.labels, ClipShape(3, 1))
    (batch,) = part.batches((32, 32), 6, workers=0, greys=True)
    assert batch.greys.shape == (2, 32, 32)
    middle = Image.fromarray(batch.images[1, :, 1].permute(1, 2, 0).numpy())
    assert (batch.greys[1] == grey_version(middle)).all()
    (plain,) = part.batches((32, 32), 6, workers=0)
    assert plain.greys is None
