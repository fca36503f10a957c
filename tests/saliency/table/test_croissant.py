"""``croissant.json``: the format's own validator has nothing to object, and the columns are those of the schema."""

from dataclasses import replace

import mlcroissant
import pyarrow as pa
import pytest
import yaml

from saliency.table.card import citation, dataset_card
from saliency.table.columns import COLUMNS
from saliency.table.croissant import PublishedFile, croissant
from saliency.table.shard import schema
from tests.saliency.table.test_card import FACTS
from tests.test_cli import ROOT

FILES = [PublishedFile(f"data/train-{number:05d}-of-00002.parquet", f"{number}" * 64, 10) for number in range(2)]
PREVIEW = PublishedFile("preview/train-00000-of-00001.parquet", "a" * 64, 20)


@pytest.mark.parametrize("files", [FILES, [*FILES, PREVIEW]])
@pytest.mark.parametrize("licence", ["cc-by-4.0", "other"])
def test_the_validator_objects_to_nothing(files, licence):
    """It would like a date, which would make every upload another; and a licence, which is not known."""
    found = mlcroissant.Dataset(croissant(replace(FACTS, licence=licence), files)).metadata
    assert not found.issues.errors
    wished = {"datePublished", *(["license"] if licence == "other" else [])}
    assert {word for issue in found.issues.warnings for word in wished if word in issue} == wished
    assert len(found.issues.warnings) == len(wished)
    assert [record_set.id for record_set in found.record_sets] == ["maps", "preview"][: len(files) - 1]
    assert [file.sha256 for file in found.distribution if file.id.startswith("data/")] == ["0" * 64, "1" * 64]
    assert found.cite_as == citation(FACTS)


def test_the_version_is_that_of_the_files():
    versions = [croissant(FACTS, files)["version"] for files in (FILES, FILES[::-1], FILES[:1])]
    assert len(set(versions)) == 3
    assert croissant(FACTS, list(FILES))["version"] == versions[0]


def test_columns_are_those_of_the_schema():
    def shown(found):
        value, size = (found.value_type, f"[{found.list_size}]") if pa.types.is_fixed_size_list(found) else (found, "")
        return {"float": "float32"}.get(str(value), str(value)) + size

    fields = [(field.name, shown(field.type) + ", may be null" * field.nullable) for field in schema(14, {})]
    assert [(column.name, column.shown_type(14)) for column in COLUMNS] == fields


def test_the_citation_is_that_of_the_project():
    software = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    text = citation(replace(FACTS, name="me/my_maps"))
    assert f"title = {{{{{software['title']}}}}}" in text
    assert f"version = {{{{{software['version']}}}}}" in text
    assert f"author = {{{{{software['authors'][0]['name']}}}}}" in text
    assert r"title = {{990 saliency maps: me/my\_maps}}" in text
    assert r"\url{https://huggingface.co/datasets/me/my_maps}" in text
    assert f"```bibtex\n{citation(FACTS)}\n```" in dataset_card(FACTS)
