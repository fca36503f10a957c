"""What the tests of ``pretrain`` share."""

import pytest

from tests.pipelines.pretraining import nano_options


@pytest.fixture
def base(tmp_path, nano):
    """Options of a short run into ``tmp_path``/run; a file's own fixture of the same name may change them."""
    return nano_options(tmp_path / "run")
