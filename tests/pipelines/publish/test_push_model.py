"""A run's model goes up to a Hub on loopback as the guide says, and comes down again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from mae.training.checkpoints import load_model
from tests.hub_server import TOKEN, LoopbackHub
from tests.pipelines.pretraining import nano_options, nano_runs, run

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guide" / "weights.md").read_text().split("```py\n")[1].split("```")[0]
OPEN_AGAIN = """
import sys
import torch
from mae.models.vit import MaskedAutoencoder

torch.save(MaskedAutoencoder.from_pretrained("user/name").state_dict(), sys.argv[1])
"""


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        yield hub


def python(code, *arguments, hub, home):
    """Runs code in a process of its own: the client reads its endpoint when it is imported."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home / "hf"), "HF_TOKEN": TOKEN}
    environment = known | settings | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_guides_lines_push_a_run_and_open_it_again(hub, tmp_path, monkeypatch):
    nano_runs(monkeypatch)
    run(nano_options(tmp_path / "run"))
    python(GUIDE, hub=hub, home=tmp_path)
    files = hub.files("user/name")
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    ours = load_model(tmp_path / "run").state_dict()
    assert all(load(files["model.safetensors"])[name].equal(weight) for name, weight in ours.items())
    assert json.loads(files["config.json"])["image_size"] == 16
    card = files["README.md"].decode()
    assert "library_name: saliency-mae" in card
    assert 'from_pretrained("user/name")' in card
    assert "| steps | 18 of 18 |" in card
    assert str(tmp_path) not in card

    python(OPEN_AGAIN, tmp_path / "down.pt", hub=hub, home=tmp_path)
    down = torch.load(tmp_path / "down.pt", weights_only=True)
    assert down.keys() == ours.keys()
    assert all(down[name].equal(weight) for name, weight in ours.items())
