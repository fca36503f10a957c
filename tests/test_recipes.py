"""Every recipe is taken by the command that it names, and its dry run works with a small model on small data."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipelines.pretraining import invoke, nano_runs

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"), key=lambda path: path.name)
SMALL = {
    "build-saliency": ("--batch-size", 8, "--workers", 1),
    "pretrain": ("--model", "nano", "--batch-size", 4, "--accumulate", 1, "--workers", 0),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_dry_run_of_a_recipe(recipe, tmp_path, monkeypatch, tiny_clip):
    text = recipe.read_text()
    command, name = re.match(r"# mae-cli ([a-z-]+) --config recipes/(\S+)", text).groups()
    assert name == recipe.name
    assert all(f"\n# {word}: " in text for word in ("Reproduces", "Known", "Here", "Needs"))
    assert all((FOLDER.parent / page).exists() for page in re.findall(r"docs/\S+\.md|tests/\w+/", text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"pipelines.{command.partition('-')[0]}.dry_run.SECONDS", 0.05)
    nano_runs(monkeypatch)
    source = "shapes-video:8,size=32,frames=16" if "\nframes:" in text else "shapes:24,size=32"
    more = ["--clip", tiny_clip] if command == "build-saliency" else []
    if "\nsaliency:" in text:
        assert invoke("import-maps", source, "--from", "masks", "--out", "maps").exit_code == 0
        more = ["--saliency", "maps"]
    done = invoke(command, source, "--config", recipe, *SMALL[command], *more, "--device", "cpu", "--dry-run")
    assert done.exit_code == 0, done.output
    assert re.search(r"^time +about ", done.output, re.M)
    out = re.search(r"^out: (\S+)$", text, re.M).group(1)
    assert out in done.output
    assert not Path(out).exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("script", ["build-saliency.sbatch", "pretrain.sbatch", "ray.sh"])
def test_a_script_is_one_and_names_files_that_are_there(script):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)
    text = (FOLDER / script).read_text()
    assert all((FOLDER.parent / name).exists() for name in re.findall(r"recipes/[\w.-]+", text))


def test_the_page_lists_them_all():
    listed = set(re.findall(r"\]\(([\w.-]+)\)", (FOLDER / "README.md").read_text()))
    assert listed == {path.name for path in FOLDER.iterdir()} - {"README.md"}
