import pytest

from pipelines.evaluate.evaluate import EvaluateOptions
from tests.pipelines.evaluate.protocols.judging import ALL, QUICK_RECIPES
from tests.pipelines.evaluate.test_evaluate import save_run, tree


@pytest.fixture
def base(tmp_path):
    run = save_run(tmp_path / "run", seed=5)  # an untrained one of seed 0 would be the same encoder
    return EvaluateOptions(
        str(run),
        str(tree(tmp_path / "data", count=12)),
        protocols=ALL,
        untrained=False,
        neighbours=3,
        batch_size=8,
        workers=0,
        **QUICK_RECIPES,
    )
