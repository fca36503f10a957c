from pathlib import Path

import pytest

from pipelines.compare import unit as compare_runs
from pipelines.sources.open_source import open_source
from tests.pipelines.compare.comparisons import NANO_SETTINGS, PROBES
from tests.pipelines.pretraining import SOURCE
from tests.tiny_mae import write_maps


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path / "maps", open_source(SOURCE))


@pytest.fixture
def content(maps):
    """A plan of two arms and two seeds, as YAML would hold it."""
    return {
        "source": SOURCE,
        "saliency": str(maps),
        "seeds": [0, 3],
        "pretrain": dict(NANO_SETTINGS),
        "evaluate": {"source": PROBES, "protocols": ["knn"], "pool": "mean"},
        "arms": {"random": None, "image": {"masking": "salient", "salient_ratio": 0.5}},
    }


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def trainings(monkeypatch):
    """The (arm, seed) of every pretraining and evaluation that is begun, in order."""
    begun = []
    for name in ("pretrain", "evaluate"):
        original = getattr(compare_runs, name)

        def noted(options, name=name, original=original, **rest):
            folder = Path(options.out if name == "pretrain" else options.run)
            begun.append((name, folder.parent.name, folder.name))
            return original(options, **rest)

        monkeypatch.setattr(compare_runs, name, noted)
    return begun
