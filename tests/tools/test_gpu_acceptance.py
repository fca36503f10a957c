import json
import sys

import pytest

from tools import gpu_acceptance as module
from tools.gpu_acceptance import PIECES, Piece, main, measure, to_markdown


def test_a_piece_that_ended_well_is_not_run_again(tmp_path):
    piece = Piece("sum", ("-c print(6*7)", "-c print('{device}')"), ("-c print(1)",))
    first = measure(piece, tmp_path, "cpu", tiny=False)
    assert (first["state"], first["output"]) == ("done", ["42", "cpu"])
    assert json.loads((tmp_path / "sum.json").read_text()) == first
    assert measure(piece, tmp_path, "cpu", tiny=False) == first  # its seconds, too
    assert measure(piece, tmp_path, "cpu", tiny=True)["output"] == ["1"]  # other commands are another question
    assert "| sum | cpu | done |" in to_markdown([first])


@pytest.mark.parametrize(
    ("command", "state"), [("-c 1/0", "failed (1)"), ("-c __import__('time').sleep(60)", "too slow")]
)
def test_a_piece_that_did_not_is(command, state, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 1.0)
    piece = Piece("bad", (command, "-c print('never')"), ())
    assert measure(piece, tmp_path, "cpu", tiny=False)["state"] == state
    found = measure(Piece("bad", ("-c print('well')",), ()), tmp_path, "cpu", tiny=False)
    assert (found["state"], found["output"]) == ("done", ["well"])


def test_what_evaluations_found_stands_side_by_side(tmp_path, monkeypatch, capsys):
    row = {"encoder": "run", "knn": 0.25, "knn_interval": 0.02, "propagate": 0.5, "propagate_interval": None}
    told = {"protocols": ["knn", "propagate"], "rows": [row, {}]}
    for name, precision in (("a", {}), ("b", {"precision": "bf16"})):
        (tmp_path / name).write_text(json.dumps(told | precision))
    monkeypatch.setattr(sys, "argv", ["gpu_acceptance.py", "--figures", str(tmp_path / "a"), str(tmp_path / "b")])
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "knn: fp32 25.0 ± 2.0, bf16 25.0 ± 2.0",
        "propagate: fp32 50.0 ± 0.0, bf16 50.0 ± 0.0",
    ]


def test_the_list(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_acceptance.py", "--list"])
    assert main() == 0
    names = capsys.readouterr().out.split()
    assert names == [piece.name for piece in PIECES]
    assert len(set(names)) == len(names)
