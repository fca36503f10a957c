"""What several of these tests need."""

import pytest


@pytest.fixture
def hf_cache(tmp_path_factory, monkeypatch):
    """Keeps what ``datasets`` converts out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture
def nano(monkeypatch):
    """Runs may have a model of the size ``nano``, and draw no pictures."""
    from tests.pipelines.pretraining import nano_runs

    nano_runs(monkeypatch)


@pytest.fixture
def pictures(nano, monkeypatch):
    """Runs draw their pictures after all."""
    from tests.pipelines.pretraining import DRAWS

    for task, draw in DRAWS.items():
        monkeypatch.setattr(task, "draw", draw)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a saved model of images, ``image``, and one of video, ``video``: two frames of 16×24 pixels."""
    import torch

    from tests.mae.recovery.test_stream_encoder import video
    from tests.tiny_mae import nano

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    nano().save_pretrained(folder / "image")
    video().save_pretrained(folder / "video")
    return folder
