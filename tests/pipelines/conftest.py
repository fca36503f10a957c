"""What several of these tests need."""

import pytest


@pytest.fixture
def hf_cache(tmp_path_factory, monkeypatch):
    """Keeps what ``datasets`` converts out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
