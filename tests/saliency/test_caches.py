"""A cache folder that can't be used is told as such, not as a damaged file, a network that is down or a bad --out."""

import errno
import io
import os

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import cli
from pipelines.errors import UserError
from pipelines.hub import find_maps
from pipelines.sources.open_source import open_source
from saliency.caches import cache_fault
from saliency.towers.tower import load_tower


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the libraries would keep what they fetch: below a file, so that no folder can be made."""
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    return home


def raised(number, *names):
    return OSError(number, os.strerror(number), *map(str, names))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOENT])
def test_a_folder_that_can_not_be_made(cache, number):
    error = RuntimeError("it did not work")
    error.__cause__ = raised(number, cache.parent)
    assert cache_fault(error) == (
        f"the cache folder {cache / 'datasets'} can't be used: {os.strerror(number)}; set HF_HOME to a folder that can "
        "be written"
    )


def test_the_variable_that_was_set_is_named(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", "x")
    fault = cache_fault(raised(errno.ENOSPC, cache / "hub" / "models--a--b"))
    assert fault.endswith(
        "No space left on device; make room there, or set HF_HUB_CACHE to a folder that can be written"
    )


def test_a_full_disk_is_the_caches_where_nothing_else_is_written(cache):
    assert cache_fault(raised(errno.ENOSPC)) is None
    assert "No space left" in cache_fault(raised(errno.ENOSPC), reading=True)


@pytest.mark.parametrize("error", [raised(errno.ENOENT, "/data/x"), raised(errno.EIO), ValueError("x")])
def test_other_errors_are_none(cache, error):
    assert cache_fault(error, reading=True) is None


def test_a_file_that_is_gone_from_the_cache_is_no_fault_of_the_folder(cache):
    assert cache_fault(raised(errno.ENOENT, cache / "hub" / "a.parquet")) is None


def test_a_table_is_not_to_be_fetched_again(cache, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="PNG")
    pq.write_table(pa.table({"image": [buffer.getvalue()], "caption": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"^the cache folder {cache / 'datasets'} can't be used: Not a directory"):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("ask", [lambda: find_maps("someone/maps"), lambda: load_tower("hf-hub:a/b")])
def test_what_is_fetched_is_not_called_unreachable(cache, monkeypatch, ask):
    def fails(*_, **__):
        raise raised(errno.EACCES, cache / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    monkeypatch.setattr("open_clip.create_model", fails)
    with pytest.raises((UserError, ValueError), match=r"^the cache folder .*: Permission denied; set HF_HOME"):
        ask()


def test_a_token_that_can_not_be_read(cache, monkeypatch, capsys):
    """Every message looks for it, to leave it out."""

    def fails(*_):
        raise raised(errno.ENOTDIR, cache / "token")

    monkeypatch.setattr("huggingface_hub.get_token", fails)
    assert str(UserError("a message")) == "a message"
    monkeypatch.setattr("pipelines.build.merge.merge", fails)
    with pytest.raises(SystemExit):
        cli.main(["merge", "x"])
    assert capsys.readouterr().err.startswith(f"error: the cache folder {cache} can't be used: Not a directory; set HF")
