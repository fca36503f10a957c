"""The options of the fast step through `pretrain`: what they reach, what they refuse, what is written down."""

import json
from dataclasses import replace

import pytest

from mae.training.checkpoints import load_model
from mae.training.flops import training_flops
from pipelines.errors import UserError
from tests.pipelines.pretraining import STEPS, assert_same_weights, invoke, losses, nano_options, nano_runs, run


@pytest.fixture(autouse=True)
def nano(monkeypatch):
    nano_runs(monkeypatch)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        return run(nano_options(tmp_path_factory.mktemp("plain") / "run"))


def test_the_decoder_has_the_size_that_was_asked_for(tmp_path):
    folder = run(replace(nano_options(tmp_path / "run"), epochs=1, decoder_width=24, decoder_depth=3))
    model = load_model(folder.folder)
    assert model.decoder_embed.weight.shape == (24, 16)
    assert len(model.decoder_blocks) == 3
    assert model.decoder_blocks[0].attn.num_heads == 3  # of 8, as the size's own
    assert len(model.blocks) == 1


def test_a_share_that_is_decoded_is_another_run_that_resumes_to_the_bit(plain, tmp_path):
    options = replace(nano_options(tmp_path / "run"), decode_ratio=0.5)
    whole = run(options)
    assert len(losses(whole)) == STEPS
    assert losses(whole) != losses(plain)
    part = replace(options, out=tmp_path / "part", keep=9)
    again = run(part)
    for late in sorted((again.folder / "checkpoints").glob("step-*"))[1:]:
        for file in late.iterdir():
            file.unlink()
        late.rmdir()
    resumed = run(replace(part, resume=True))
    assert losses(resumed) == losses(whole)
    assert_same_weights(resumed.folder, whole.folder)


def test_the_run_says_what_a_step_costs_and_how_much_of_the_machine_it_takes(plain):
    config = plain.config()
    assert config["flops_per_image"] == training_flops(load_model(plain.folder), 0.75)
    assert config["peak_flops"]["origin"] == "measured"
    rated = [line for line in plain.metrics() if "images_per_second" in line]
    assert rated
    for line in rated:
        expected = line["images_per_second"] * config["flops_per_image"] / config["peak_flops"]["flops"]
        assert line["mfu"] == pytest.approx(expected, abs=1e-4)


def test_a_run_may_be_resumed_compiled_or_not_and_with_no_other_decoder(plain):
    options = nano_options(plain.folder)
    config = plain.folder / "config.json"
    text = config.read_text()
    try:
        content = json.loads(text)
        content["options"]["compile"] = True
        config.write_text(json.dumps(content))
        run(replace(options, resume=True))
    finally:
        config.write_text(text)
    for change in ({"decode_ratio": 0.5}, {"decoder_depth": 1}, {"decoder_width": 16}):
        with pytest.raises(UserError, match="--resume: .* was started with other settings"):
            run(replace(options, resume=True, **change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--decode-ratio", 0), "--decode-ratio is 0; it must be above 0 and at most 1"),
        (("--decoder-width", 20), "--decoder-width 20 must be a multiple of 8, the width of this size's heads"),
        (("--decoder-width", 0), "--decoder-width 0 must be a multiple of 8"),
        (("--decoder-depth", 0), "--decoder-depth is 0; it must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    small = ("--model", "nano", "--image-size", 16, "--batch-size", 4, "--workers", 0, "--device", "cpu")
    result = invoke("pretrain", "shapes:8,size=32", "--out", tmp_path / "run", *small, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_machine_that_cannot_compile_is_one_line(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr("torch.compile", fails)
    with pytest.raises(UserError, match=r"^--compile can't compile anything here \(no C\+\+ compiler\); leave it out$"):
        run(replace(nano_options(tmp_path / "run"), compile=True))
    assert not (tmp_path / "run").exists()
