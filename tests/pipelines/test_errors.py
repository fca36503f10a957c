"""An error is one line that tells no secret."""

import pytest
import typer
from typer.main import get_command

import cli
from pipelines.commandline.terminal import guarded
from pipelines.errors import UserError, user_errors, without_secrets
from pipelines.pretrain.record import trackers

TOKEN = "hf_" + "verySecret" * 3


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"])
def test_no_token_is_in_a_message(name, monkeypatch, capsys):
    monkeypatch.setenv(name, TOKEN)
    reason = f"401 for Authorization: Bearer {TOKEN}\nbye"
    with pytest.raises(UserError) as told, user_errors():
        raise ValueError(reason)
    assert str(told.value) == "401 for Authorization: Bearer … bye"
    with pytest.raises(typer.Exit):
        guarded(lambda: (_ for _ in ()).throw(UserError(reason)))()
    trackers._warn("wandb", RuntimeError(reason))
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_token_that_was_stored_by_a_login(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    assert without_secrets(f"no {TOKEN}") == "no …"


def test_an_address_keeps_its_name_and_password(monkeypatch):
    message = "rtsp://me:secret@camera/1 is not a video; https://hub.co/a@b and a@b stay"
    assert without_secrets(message) == "rtsp://…@camera/1 is not a video; https://hub.co/a@b and a@b stay"
    monkeypatch.setenv("HF_TOKEN", "a")
    assert without_secrets("a cat") == "a cat", "no secret, and in every word"


def test_no_option_takes_a_token():
    """It would stand in the list of processes and in the shell's history."""
    for name, command in get_command(cli.app).commands.items():
        words = {flag for option in command.params for flag in option.opts} - {"--class-tokens"}  # of a ViT
        assert not [word for word in words if any(part in word for part in ("token", "key=", "secret", "passw"))], name
