"""A table of maps that a small CLIP made, the true masks as a second one, and a model; opened once."""

import pytest

import saliency_mae as sm
from pipelines.explore.opened import open_all
from pipelines.explore.options import ExploreOptions

SOURCE = "shapes:12,size=48"


@pytest.fixture(scope="session")
def places(tmp_path_factory, tiny_clip, models):
    folder = tmp_path_factory.mktemp("explore")
    sm.build_saliency(SOURCE, folder / "maps", clip=tiny_clip, device="cpu", quiet=True)
    sm.import_maps("shapes:8,size=48", "masks", folder / "oracle", quiet=True)
    return folder / "maps", folder / "oracle", models / "image"


@pytest.fixture(scope="session")
def opened(places):
    return open_all(ExploreOptions(tuple(map(str, places)), device="cpu"))
