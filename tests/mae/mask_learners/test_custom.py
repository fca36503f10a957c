"""Anyone's scores of patches as masks, in a pretraining and in a comparison."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mae.mask_learners.custom import new_learner
from mae.mask_learners.learner import Look
from mae.models.video import VideoMaskedAutoencoder
from pipelines.commandline.effects import check_effects
from pipelines.compare.options import CompareOptions
from pipelines.compare.plan import asked_plan
from pipelines.errors import UserError
from tests.pipelines.pretraining import SOURCE, losses, nano_options, nano_runs, run, stopping
from tests.tiny_mae import NANO
from tests.tiny_mae import nano as nano_model

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "your-masks.md"
EXAMPLE = re.search(r"```python\n(# my_masks\.py\n.*?)```", GUIDE.read_text(), re.S)[1]
"""The example of the guide."""


@pytest.fixture
def write(tmp_path):
    def writes(text, name="Score"):
        (tmp_path / "my_masks.py").write_text(text)
        return f"{tmp_path / 'my_masks.py'}:{name}"

    return writes


@pytest.fixture
def base(tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    return nano_options(tmp_path / "run")


def look(model, count=3, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    frames = (model.frames,) if isinstance(model, VideoMaskedAutoencoder) else ()
    images = torch.rand(count, 3, *frames, *model.image_size, generator=generator)
    noise = lambda times, numbers: torch.rand(times, count, numbers, generator=generator)  # noqa: E731
    return Look(images, model.grid, 0.5, noise, **options)


def learner_of(masks, model):
    return new_learner({"masks": masks}, model, torch.device("cpu"))


def test_the_highest_scores_are_hidden(write):
    model = nano_model()
    masks = write("import torch\ndef Score(images):\n    return images.mean(1).unfold(1, 8, 8).unfold(2, 8, 8)"
                  ".mean((3, 4)).flatten(1)")  # fmt: skip
    seen = look(model)
    learner = learner_of(masks, model)
    scores = torch.nn.functional.avg_pool2d(seen.images.mean(1), model.patch_size).flatten(1)
    hidden = learner.draw(seen).hidden
    assert hidden.sum(1).tolist() == [math.prod(model.grid) // 2] * 3
    for row in range(3):
        assert scores[row][hidden[row]].min() > scores[row][~hidden[row]].max()
    flat = learner_of(write("def Score(noise):\n    return 0 * noise"), model)
    assert not torch.equal(flat.draw(look(model)).hidden, flat.draw(look(model, seed=1)).hidden)  # ties are drawn


def test_blocks_are_hidden_by_their_mean_score_in_images_and_clips(write):
    masks = write(
        "import torch\ndef Score(noise, grid):\n    return torch.linspace(0, 1, noise.shape[1]).expand_as(noise)"
    )
    hidden = learner_of(masks, nano_model()).draw(look(nano_model(), granularity=2)).hidden
    assert torch.equal(hidden, (torch.arange(16) >= 8).expand(3, -1)), "the lower half of a grid of 4×4"
    model = VideoMaskedAutoencoder(32, 8, 4, 2, 16, 1, 2, 16, 1, 2)
    for tubes in (True, False):
        slots = learner_of(masks, model).draw(look(model, tubes=tubes, granularity=2)).hidden.view(3, 2, 16)
        wanted = [(torch.arange(16) >= 8)] * 2 if tubes else [torch.zeros(16) > 0, torch.ones(16) > 0]
        assert torch.equal(slots, torch.stack(wanted).expand(3, -1, -1))


def test_tokens_are_the_embeddings_and_a_module_has_a_state(write):
    model = nano_model()
    masks = write(
        "import torch\n"
        "class Score(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('calls', torch.zeros(()))\n"
        "    def forward(self, tokens, progress):\n"
        "        self.calls += 1\n"
        "        return tokens.norm(dim=2) * (1 - 2 * progress)\n"
    )
    learner = learner_of(masks, model)
    assert learner.reads_model
    assert learner.state() == {"calls": 0}  # it was tried, and is as before
    seen = look(model)
    norms = model.embed(seen.images).norm(dim=2)
    for progress in (0.0, 1.0):
        hidden = learner.draw(replace(seen, progress=progress)).hidden
        sign = 1 - 2 * progress
        for row in range(3):
            assert (sign * norms[row])[hidden[row]].min() >= (sign * norms[row])[~hidden[row]].max()
    other = learner_of(masks, model)
    other.load_state(learner.state())
    assert other.state() == {"calls": 2}


def test_scores_of_a_clip_make_tubes_or_not(write):
    model = VideoMaskedAutoencoder(image_size=32, frames=4, tubelet=2, **NANO._asdict())
    slots, *sides = model.grid
    learner = learner_of(write("def Score(noise, grid):\n    return noise"), model)
    hidden = learner.draw(look(model)).hidden.reshape(3, slots, -1)
    assert (hidden == hidden[:, :1]).all()
    assert (hidden.sum(2) == math.prod(sides) // 2).all()
    free = learner.draw(look(model, tubes=False)).hidden.reshape(3, slots, -1)
    assert not (free == free[:, :1]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def Other(images): ...", "has no Score"),
        ("Score = 3", "Score can't be called; give a function, or a class with __call__"),
        ("class Score: ...", "Score can't be called; give a function, or a class with __call__"),
        ("def Score(pictures): ...", "Score asks for pictures; there are images, tokens, grid, noise, progress"),
        ("import nothing_like_it", "can't be imported: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def Score(noise):\n    return 1 / 0", "failed with ZeroDivisionError: division by zero"),
        ("def Score(noise):\n    return noise.numpy()", "gave a ndarray, not a tensor of scores [B, N]"),
        ("def Score(noise):\n    return noise[:, :3]", "gave scores of shape [2, 3], not [2, 4]"),
        ("def Score(noise):\n    return noise / 0", "gave 8 of 8 scores that are infinite or NaN"),
    ],
)
def test_a_mistake_is_one_line(write, text, message):
    model = nano_model(16)
    with pytest.raises(ValueError, match=re.escape(message)):
        learner_of(write(text), model)


def test_a_file_that_is_none(base):
    for masks, message in (
        ("none.py:Score", "there is no file none.py"),
        ("none.py", "is not FILE.py:NAME, such as my_masks.py:Score"),
        (None, "--masking custom needs --masks FILE.py:NAME"),
    ):
        with pytest.raises(UserError, match=message):
            run(replace(base, masking="custom", masks=masks))
    options = replace(base, masking="random", masks="my_masks.py:Score")
    with pytest.raises(ValueError, match="--masks has no effect with --masking random; it belongs"):
        check_effects(options, {"masks"})


def test_the_example_of_the_guide_is_pretrained_with_and_resumed_to_the_bit(write, base, tmp_path):
    assert len(EXAMPLE.splitlines()) <= 15
    asked = replace(base, masks=write(EXAMPLE), image_size=(32,))
    whole = run(asked)
    assert losses(whole) != losses(run(replace(base, out=tmp_path / "random", image_size=(32,))))
    config = whole.config()
    assert config["masking"]["strategy"] == "custom"
    assert re.fullmatch(r"my_masks\.py:Score@[0-9a-f]{12}", config["options"]["masks"])
    copy = whole.folder / "masks" / "my_masks.py"
    assert copy.read_text() == EXAMPLE
    stopped = replace(asked, out=tmp_path / "stopped")
    with stopping(11), pytest.raises(KeyboardInterrupt):
        run(stopped)
    write(EXAMPLE + "# changed\n")
    with pytest.raises(UserError, match=r"other settings \(masks 'my_masks.py:Score@"):
        run(replace(stopped, resume=True))
    goes_on = replace(stopped, masks=f"{stopped.out / 'masks' / 'my_masks.py'}:Score", resume=True)
    assert losses(run(goes_on)) == losses(whole)


def test_scores_that_fail_at_a_step_end_the_run_in_a_line(write, base):
    text = "def Score(noise, progress):\n    return noise / (progress < 0.5)"
    with pytest.raises(UserError, match=r"gave \d+ of \d+ scores that are infinite or NaN"):
        run(replace(base, masks=write(text)))


def test_an_arm_of_a_comparison(write, tmp_path):
    masks = write(EXAMPLE)
    plan = asked_plan(CompareOptions(SOURCE, tmp_path / "out", arms="random", masks=(masks,)))
    assert plan.arms == {"random": {"masking": "random"}, "Score": {"masks": masks}}
    assert plan.pretrain_options("Score", 0, tmp_path).masking == "custom"
    (tmp_path / "plan.yaml").write_text(f"{{source: {SOURCE.split(',')[0]}, arms: [random, block]}}")
    narrowed = asked_plan(CompareOptions(str(tmp_path / "plan.yaml"), tmp_path, arms="random,Score", masks=(masks,)))
    assert list(narrowed.arms) == ["random", "Score"]
    with pytest.raises(UserError, match="'Score' is there twice"):
        asked_plan(CompareOptions(SOURCE, tmp_path / "out", arms="random", masks=(masks, masks)))
