"""A few kills of the commands that write; ``tools/kill_campaign.py`` by hand makes a hundred of each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.killed_runs import BrokenPromiseError, check_whole, tree

ROOT = Path(__file__).parents[1]
FEW = "build-saliency,pretrain,pretrain 2 processes SIGTERM"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_few_kills_of_each_command_lose_nothing(tmp_path):
    words = [sys.executable, "tools/kill_campaign.py", "--kills", "1", "--only", FEW, "--place", str(tmp_path)]
    seed = os.environ.get("KILL_SEED", "0")
    done = subprocess.run([*words, "--seed", seed], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if "| 1 | 1 |" in line]
    assert {row[1].strip().replace(",", "") for row in rows} == set(FEW.split(","))
    assert all(row[7].strip() == "0" for row in rows)


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("a.json", b'{"a": 1'),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.parquet", b"PAR1"),
        ("a.pt", b"PK\x03\x04"),
        ("a.mp4", b"\0\0\0\x08moov\0\0\0\x10mdat"),
        ("a.safetensors", b'\x20\0\0\0\0\0\0\0{"a":{"data_offsets":[0,4]}}    '),
    ],
)
def test_half_files_are_found_under_final_names_alone(tmp_path, name, half):
    (tmp_path / f".tmp-1-{name}").write_bytes(half)
    check_whole(tmp_path)
    (tmp_path / name).write_bytes(half)
    with pytest.raises(BrokenPromiseError, match=f"a half file under a final name: {name}"):
        check_whole(tmp_path)


def test_only_times_are_left_out(tmp_path):
    for place, speed, loss in (("a", 1, 2), ("b", 3, 2), ("c", 1, 4)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "metrics.jsonl").write_text(f'{{"images_per_second": {speed}, "loss": {loss}}}\n')
    a, b, c = (tree(tmp_path / place) for place in "abc")
    assert a == b != c
