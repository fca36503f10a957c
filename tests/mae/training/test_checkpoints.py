import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mae.mask_learners.gate import Gate, save_gate
from mae.masks.masking import Masking
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import best_loss, list_checkpoints, load_model, load_training, save_checkpoint, save_state
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano


def images(seed):
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def training(model_seed=0, **model):
    torch.manual_seed(model_seed)
    settings = TrainingSettings(epochs=2, batch_size=4, warmup_epochs=0, blr=0.1)
    return Training(nano(**model), Masking(), settings, 10)


def advance(run, steps=1):
    return [float(run.update([Batch(images(run.step))])) for _ in range(steps)]


def names(run):
    return [path.name for path in list_checkpoints(run)]


def test_a_checkpoint_goes_on_to_the_bit(tmp_path):
    run = training()
    advance(run, 3)
    folder = save_checkpoint(tmp_path, run)
    other = training(model_seed=1)
    load_training(folder, other)
    assert other.step == 3
    before, after = run.state()["optimizer"], other.state()["optimizer"]
    assert before["param_groups"] == after["param_groups"]
    for number, moments in before["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, after["state"][number][name])
    assert advance(run, 3) == advance(other, 3)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_a_model_comes_back_ready_to_use_and_without_a_word(tmp_path, capsys):
    run = training(image_size=(32, 16), norm_pix=False)
    folder = save_checkpoint(tmp_path, run)
    for place in (tmp_path, folder):
        model = load_model(place)
        assert (model.image_size, model.norm_pix, model.training) == ((32, 16), False, False)
        assert torch.equal(model.norm.weight, run.model.norm.weight)
    assert type(model).from_pretrained(folder).image_size == (32, 16)
    run.model.save_pretrained(tmp_path / "saved")
    capsys.readouterr()
    load_model(tmp_path / "saved")
    assert capsys.readouterr() == ("", "")


def test_a_checkpoint_holds_four_files(tmp_path):
    folder = save_checkpoint(tmp_path, training())
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
        "training.pt",
    ]


@pytest.mark.skipif(os.name == "nt", reason="has no such permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_checkpoint_has_the_permissions_of_other_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path, training(), loss=1.0)
        save_gate(Gate(8), tmp_path / "gate.safetensors")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: mode for path in files}
    assert len(files) == 10


def test_the_newest_are_kept(tmp_path):
    run = training()
    for _ in range(4):
        advance(run)
        save_checkpoint(tmp_path, run, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names(tmp_path)
    save_checkpoint(tmp_path, run, keep=1)
    assert names(tmp_path) == ["step-00000004"]


@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "safetensors.torch.save_file"])
def test_a_save_that_is_cut_short_leaves_the_one_before(tmp_path, monkeypatch, fails):
    run = training()
    advance(run)
    save_checkpoint(tmp_path, run)
    saved = {name: value.clone() for name, value in run.model.state_dict().items()}
    advance(run)

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fails, killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, run)
    assert names(tmp_path) == ["step-00000001"]
    loaded = load_model(tmp_path)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    load_training(list_checkpoints(tmp_path)[-1], training())
    leftover = tmp_path / "checkpoints" / ".tmp-step-00000009"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, run)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names(tmp_path)


def test_a_step_that_is_saved_again_is_there_at_every_moment(tmp_path, monkeypatch):
    """Stops the second save before every single rename and deletion, and looks at what a reader would find."""
    run = training()
    advance(run)
    save_checkpoint(tmp_path / "run", run)
    old = run.model.norm.bias.clone()
    with torch.no_grad():
        run.model.norm.bias.add_(1)
    real_replace, real_rmtree, count = Path.replace, shutil.rmtree, 0

    class Killed(BaseException):
        pass

    for survives in range(20):
        shutil.copytree(tmp_path / "run", tmp_path / "copy", dirs_exist_ok=True)
        done = iter(range(survives))

        def step(real, *args, _done=done, **kwargs):
            if next(_done, None) is None:
                raise Killed
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda *args, _step=step: _step(real_replace, *args))
            patch.setattr(shutil, "rmtree", lambda *args, _step=step, **kw: _step(real_rmtree, *args, **kw))
            try:
                save_checkpoint(tmp_path / "copy", run, keep=1)
                finished = True
            except Killed:
                finished = False
        bias = load_model(tmp_path / "copy").norm.bias
        places = [path.name for path in (tmp_path / "copy" / "checkpoints").glob("step-*")]
        assert torch.equal(bias, old if places == ["step-00000001.old"] or survives == 0 else old + 1)
        load_training(list_checkpoints(tmp_path / "copy")[-1], training())
        save_checkpoint(tmp_path / "copy", run, keep=1)
        assert torch.equal(load_model(tmp_path / "copy").norm.bias, old + 1)
        assert [path.name for path in (tmp_path / "copy" / "checkpoints").iterdir()] == ["step-00000001"]
        real_rmtree(tmp_path / "copy")
        count += not finished
        if finished:
            break
    assert finished
    assert count >= 4


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled_but_weights(tmp_path, capsys):
    run = training()
    folder = save_checkpoint(tmp_path, run)
    (folder / "SHA256SUMS").unlink()
    torch.save({"step": 1, "optimizer": Evil()}, folder / "training.pt")
    with pytest.raises(ValueError, match="can't be resumed") as caught:
        load_training(folder, run)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), "can't be loaded"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            "can't be loaded",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "holds no checkpoint"),
        (lambda f: (f / "config.json").write_text('{"width": '), "can't be loaded"),
        (lambda f: (f / "config.json").write_text('{"architectures": ["ViTMAEForPreTraining"]}'), "can't be loaded"),
        (lambda f: (f / "config.json").write_text("[]"), "can't be loaded"),
        (lambda f: (f / "config.json").unlink(), "can't be loaded"),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps(json.loads((f / "config.json").read_text()) | {"depth": 2})
            ),
            "can't be loaded",
        ),
        (lambda f: save_file({"layer.weight": torch.zeros(2)}, f / "model.safetensors"), "can't be loaded"),
        (lambda f: torch.save({"layer.weight": torch.zeros(2)}, f / "model.safetensors"), "can't be loaded"),
        (lambda f: (f / "training.pt").write_bytes(pickle.dumps({"step": 1}, 2)), "can't be resumed"),
        (lambda f: (f / "training.pt").write_bytes(b"PK"), "can't be resumed"),
        (lambda f: (f / "training.pt").write_bytes(b""), "can't be resumed"),
        (lambda f: (f / "training.pt").unlink(), "can't be resumed"),
        (lambda f: torch.save([1], f / "training.pt"), "can't be resumed"),
        (lambda f: torch.save({"step": 1, "optimizer": {}}, f / "training.pt"), "can't be resumed"),
    ],
)
@pytest.mark.parametrize("sums", [True, False])
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage, message, sums):
    folder = save_checkpoint(tmp_path, training())
    damage(folder)
    if not sums:  # as in one that was made by other means
        (folder / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=message) as caught:
        load_training(folder, training())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_checkpoint_of_another_model_does_not_fit(tmp_path):
    folder = save_checkpoint(tmp_path, training(image_size=16))
    with pytest.raises(ValueError, match=r"can't be resumed: RuntimeError.*size mismatch"):
        load_training(folder, training())


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        load_model(tmp_path)
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "training.pt", "config.json"])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_one_flipped_bit_is_one_line(tmp_path, name, place):
    """Neither safetensors nor torch notices a bit that flipped among the numbers."""
    folder = save_checkpoint(tmp_path, training())
    content = bytearray((folder / name).read_bytes())
    content[int(len(content) * place)] ^= 4
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged or was changed") as caught:
        load_training(folder, training())
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_best_is_kept_beside_the_newest(tmp_path):
    run, weights = training(), {}
    for loss in (3.0, 1.0, 2.0, 1.0, 4.0):
        advance(run)
        save_checkpoint(tmp_path, run, keep=2, loss=loss)
        weights[run.step] = run.model.norm.bias.clone()
    best = tmp_path / "checkpoints" / "best"
    assert json.loads((best / "loss.json").read_text()) == {"step": 2, "loss": 1.0}
    assert best_loss(tmp_path) == 1
    assert torch.equal(load_model(best).norm.bias, weights[2])
    assert torch.equal(load_model(tmp_path).norm.bias, weights[5])
    assert names(tmp_path) == ["step-00000004", "step-00000005"]
    other = training(model_seed=1)
    load_training(best, other)
    assert other.step == 2
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best", *names(tmp_path)}


def test_a_best_that_was_being_replaced_comes_back(tmp_path):
    run = training()
    save_checkpoint(tmp_path, run, loss=1.0)
    best = tmp_path / "checkpoints" / "best"
    best.rename(best.with_suffix(".old"))
    advance(run)
    save_checkpoint(tmp_path, run, loss=2.0)
    assert best_loss(tmp_path) == 1
    assert not best.with_suffix(".old").exists()


def test_without_hard_links_the_best_is_a_copy(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    folder = save_checkpoint(tmp_path, training(), loss=1.0)
    best = tmp_path / "checkpoints" / "best"
    assert (best / "training.pt").read_bytes() == (folder / "training.pt").read_bytes()


def test_a_state_elsewhere_with_texts_beside_it(tmp_path):
    save_state(tmp_path / "there", training(), {"why.txt": "because"})
    assert (tmp_path / "there" / "why.txt").read_text() == "because"
    load_training(tmp_path / "there", training())
    assert list_checkpoints(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def write(folder, steps, told):
    """In a process of its own: go on from the newest checkpoint, and save one after every step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    run = Training(
        MaskedAutoencoder(32, 8, 64, 2, 4, 64, 2, 4), Masking(), TrainingSettings(1000, batch_size=2, blr=0.01), 10
    )
    for checkpoint in list_checkpoints(folder)[-1:]:
        load_training(checkpoint, run)
    images = torch.arange(2 * 3 * 32 * 32).remainder(251).to(torch.uint8).view(2, 3, 32, 32)
    told.send(run.step)
    for _ in range(steps):
        run.update([Batch(images)])
        save_checkpoint(folder, run, keep=1, loss=1 / run.step)
        told.send(run.step)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Checkpoints are all that the process does, so a kill lands in one; each time the next process goes on."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytest", "timm", "huggingface_hub", "mae.training.checkpoints"])

    def start(steps):
        told, telling = processes.Pipe(duplex=False)
        writer = processes.Process(target=write, args=(tmp_path, steps, telling))
        writer.start()
        telling.close()
        return writer, told

    reached, torn = 0, 0
    for number in range(8):
        writer, told = start(10_000)
        assert told.recv() >= reached
        assert told.recv() > reached
        time.sleep(0.1 + 0.0137 * number)
        writer.kill()
        writer.join()
        newest = list_checkpoints(tmp_path)[-1]
        load_model(newest)
        reached = int(newest.stem.removeprefix("step-"))
        torn += any(path.name.startswith(".tmp-") for path in (tmp_path / "checkpoints").iterdir())
    assert torn  # at least one kill fell into the middle of a checkpoint
    assert reached >= 8
    last, told = start(1)
    assert [told.recv(), told.recv()] == [reached, reached + 1]
    last.join()
    assert last.exitcode == 0
    places = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert places == {"best", f"step-{reached + 1:08d}"}


def test_a_checkpoint_does_not_tell_whether_its_run_was_resumed(tmp_path):
    run, other = training(), training(model_seed=1)
    advance(run, 2)
    load_training(save_checkpoint(tmp_path / "a", run), other)
    advance(run)
    advance(other)
    for first, second in zip(
        sorted(save_checkpoint(tmp_path / "a", run).iterdir()),
        sorted(save_checkpoint(tmp_path / "b", other).iterdir()),
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes(), first.name


@pytest.mark.parametrize("limit", [500, 20_000])
def test_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path, limit):
    """The kernel refuses to write more into a file: first the weights do not fit, then the state."""
    run = training()
    advance(run)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            save_checkpoint(tmp_path, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "step-00000001" in error.value.filename
    assert not list((tmp_path / "checkpoints").iterdir())
    save_checkpoint(tmp_path, run)
    assert names(tmp_path) == ["step-00000001"]


def test_an_interim_checkpoint_gives_way_to_the_next(tmp_path):
    run = training()
    for step in range(1, 6):
        advance(run)
        save_checkpoint(tmp_path, run, keep=2, loss=-step, interim=step in (2, 4))
        assert names(tmp_path)[-1] == f"step-0000000{step}"
    assert names(tmp_path) == ["step-00000003", "step-00000005"]
    assert best_loss(tmp_path) == -5
