"""A table of maps that a small CLIP made, the true masks as a second one, and a model; opened once."""

from dataclasses import replace

import pytest

import saliency_mae as sm
from pipelines.explore.opened import open_all
from pipelines.explore.options import ExploreOptions
from tests.pipelines.pretraining import nano_options, nano_runs, run

SOURCE = "shapes:12,size=48"


@pytest.fixture(scope="session")
def places(tmp_path_factory, tiny_clip, models):
    folder = tmp_path_factory.mktemp("explore")
    sm.build_saliency(SOURCE, folder / "maps", clip=tiny_clip, device="cpu", quiet=True)
    sm.import_maps("shapes:8,size=48", "masks", folder / "oracle", quiet=True)
    return folder / "maps", folder / "oracle", models / "image"


@pytest.fixture(scope="session")
def gated_options(tmp_path_factory):
    """Those of a run that its gate masked."""
    with pytest.MonkeyPatch.context() as patch:
        nano_runs(patch)
        asked = {"masking": "gate", "gate_ratio": 0.6, "mask_ratio": 0.5, "image_size": (32,), "epochs": 1}
        options = replace(nano_options(tmp_path_factory.mktemp("gated") / "run"), **asked)
        run(options)
    return options


@pytest.fixture(scope="session")
def gated(gated_options):
    return open_all(ExploreOptions((str(gated_options.out),), device="cpu"))


@pytest.fixture(scope="session")
def opened(places):
    return open_all(ExploreOptions(tuple(map(str, places)), device="cpu"))
