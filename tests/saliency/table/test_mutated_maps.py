"""A maps folder with other bytes anywhere: every reader takes it or says why in its own error, and none another."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saliency.table.checks import check_table, rejected_pairs
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable
from tests.saliency.table.test_checks import NAMES, make_table, sign

FILES = ("data/train-00000-of-00003.parquet", "manifest.json", "rejected/train-00002-of-00003.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(FILES))
def test_other_bytes_anywhere(data, name, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "maps", dirs_exist_ok=True)
    content = (whole / name).read_bytes()
    at, length = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 4))
    tail = data.draw(st.sampled_from([b"", data.draw(st.binary(max_size=4)) + content[at + length :]]))
    (folder / name).write_bytes(content[:at] + tail)
    if name.startswith("data"):
        sign(folder, folder / name)  # so that its hash gives nothing away
    assert [check.name for check in check_table(folder).checks] == NAMES
    rejected_pairs(folder)
    try:
        read_manifest(folder)
        table = SaliencyTable(folder)
        assert np.isfinite(table.raw_maps(np.arange(len(table)))).all()
        table.join(table.keys.combine_chunks())
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
