import os

import numpy as np
import pytest
import torch

from mae.stored import one_line, read_config, unpickle


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), r"a.pt can't be read: only weights and plain values are read from it, and it holds a print"),
        (b"PK", "a.pt can't be read: "),
        (b"\x80\x02X", "a.pt can't be read: "),
        (b"", "a.pt can't be read: "),
        (None, "a.pt can't be read: FileNotFoundError"),
    ],
)
def test_what_a_pickle_holds_is_not_executed_and_torchs_advice_not_passed_on(content, message, tmp_path, capsys):
    if isinstance(content, bytes):
        (tmp_path / "a.pt").write_bytes(content)
    elif content is not None:
        torch.save({"model": content}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as caught:
        unpickle(tmp_path / "a.pt")
    told = str(caught.value)
    assert "weights_only" not in told
    assert "trust" not in told
    assert "\n" not in told
    assert capsys.readouterr().out == ""


def test_weights_and_plain_values_are_read(tmp_path):
    torch.save({"a": torch.ones(2), "lr": np.float64(0.5), "where": tmp_path}, tmp_path / "a.pt")
    assert unpickle(tmp_path / "a.pt")["lr"] == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"), (b"\xff\xfe\x00", "is not JSON"), (b"[]", "no object"),
        (b"[" * 200_000, "nested too deep"), (b'{"a": ' + b"9" * 5000 + b"}", "config.json is not JSON"),
        (None, "there is no file config.json"),
    ],
)  # fmt: skip
def test_a_config_of_another_shape_is_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(tmp_path / "config.json")
    assert "\n" not in one_line(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="there is no file"):
        read_config(tmp_path / "config.json")
