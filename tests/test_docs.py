"""What README and docs say is true: links lead somewhere, options exist, and commands and Python run as they stand.

The lines of a page run from top to bottom in a folder of its own that holds PLACES. A ``bash`` block runs for real, at
small settings; the command lines of a ``console`` block, which need a network, a cluster or hours, are only parsed.
"""

import doctest
import io
import json
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import cli
from pipelines.commandline.option import Argument
from tests.pipelines.build.test_build_saliency import write_pictures
from tests.pipelines.video_files import pictures, write_video
from tests.test_cli import COMMANDS, KINDS, declared_options

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "recipes" / "README.md", *ROOT.glob("docs/**/*.md")])
RUN = [page for page in PAGES if page == ROOT / "README.md" or {"start", "guide", "reference"} & set(page.parts)]
MODEL = {"--model": "mini", "--image-size": "32", "--patch-size": "8", "--batch-size": "4", "--epochs": "1"}
SMALL = {
    "build-saliency": {"--batch-size": "8", "--workers": "1"},
    "prepare": {"--workers": "1"},
    "pretrain": {**MODEL, "--workers": "0", "--warmup-epochs": "0"},
    "evaluate": {"--workers": "0"},
    "compare": {"--seeds": "1", "--jobs": "1"},
}
"""Settings that a line gets in the place of its own, or as well, so that it takes a second."""
VIDEO = {"--frames": "4", "--frame-stride": "1"}
OF_PROTOCOLS = {
    "finetune": {"--finetune-epochs": "1"},
    "linear": {"--linear-epochs": "1"},
    "attentive": {"--linear-epochs": "1"},
    "propagate": {"--dense-size": "32"},
    "occlusion": {"--recover-images": "4", "--occlusion-shares": "0,0.5"},
}
OF_OTHERS = {
    "--help",
    "--version",
    "--install-completion",
    "--nproc-per-node",
    "--max-restarts",
    "--nnodes",
    "--signal",
    "--gpus",
}
"""Options of torchrun, Slurm and the shell."""


def names(page):
    return [str(path.relative_to(ROOT)) for path in page]


def blocks(text, *languages):
    """The fenced blocks of these languages: [(language, text)]."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```", text, re.M | re.S)
    return [(language, re.sub(f"^{indent}", "", block, flags=re.M)) for indent, language, block in found
            if language in languages]  # fmt: skip


def commands(block):
    """The words after ``mae-cli`` of every such line; a line goes on after a backslash."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        words = words[words.index("mae-cli") :] if "mae-cli" in words and not line.startswith("pip") else []
        end = next((i for i, word in enumerate(words) if word in ("|", "||", "&&", ";", ">", "2>&1")), None)
        if words[1:]:
            yield words[1:end]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_and_anchors_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        place, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = page if not place else page.parent / place
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_rows_of_a_table_have_as_many_cells_as_its_heading(page):
    lines = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S).splitlines()
    width = 0
    for before, line in zip(["", *lines], lines, strict=False):
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        width = width if before.startswith("|") else cells
        assert cells in (0, width), f"{page.name}: {line}"


def _without_code(text):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))


def _anchors(text):
    """The anchors that a code host gives to the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(next(each for each in (slug, *(f"{slug}-{i}" for i in range(1, 99))) if each not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_and_option_exists(page, tmp_path, monkeypatch):
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for _, block in blocks(text, "yaml"):
        for name in re.findall(r"^# (\S+\.yaml)$", block, re.M):
            Path(name).write_text(block)
            shutil.copy(name, "run/command.yaml")
    for words in (words for _, block in blocks(text, "bash", "console", "sh") for words in commands(block)):
        if "…" not in " ".join(words):
            COMMANDS[words[0]].make_context(words[0], words[1:])
    if page in RUN:
        known = {flag for command in COMMANDS.values() for each in command.params
                 for flag in (*each.opts, *each.secondary_opts)}  # fmt: skip
        named = set(re.findall(r"`(--[a-z][a-z-]+)[` ]", text))
        assert not named - known - OF_OTHERS, page


@pytest.fixture(scope="session")
def places(tmp_path_factory, tiny_clip):
    """A folder with everything that the pages name as an input."""
    folder = tmp_path_factory.mktemp("places")
    photos = write_pictures(folder / "photos", [f"a picture of number {i % 4}" for i in range(16)])
    shutil.copy(photos / "000.png", folder / "photo.png")
    with Image.open(photos / "000.png") as image:
        image.save(folder / "photo.jpg")
    for part, start in (("labelled", 0), ("labelled-test", 8)):
        for number, label in enumerate(("cat", "dog")):
            (folder / part / label).mkdir(parents=True)
            for i in range(start, start + 8):
                Image.new("RGB", (40, 40), (20 * i, 200 * number, 30)).save(folder / part / label / f"{i}.png")
    for shard in range(2):
        (folder / "shards").mkdir(exist_ok=True)
        with tarfile.open(folder / "shards" / f"{shard:05d}.tar", "w") as tar:
            for i in range(8):
                data = (photos / f"{8 * shard + i:03d}.png").read_bytes()
                for suffix, content in (("png", data), ("txt", f"number {i}".encode())):
                    member = tarfile.TarInfo(f"{shard}{i:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    rows = [{"image": (photos / f"{i:03d}.png").read_bytes(), "caption": f"number {i}"} for i in range(16)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    for number, label in enumerate(("cat", "dog")):
        (folder / "clips" / label).mkdir(parents=True)
        for i in range(4):
            write_video(folder / "clips" / label / f"{i}.mkv", pictures(8 + number)[i % 2 :])
    write_video(folder / "clip.mp4", pictures(8, 64, 48), codec="libx264", pixels="yuv420p")
    for t in range(4):
        frame = folder / "davis" / "walk" / f"{t}.png"
        frame.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("L", (48, 40))
        picture.paste(255, (8 + t, 8, 24 + t, 24))
        picture.convert("RGB").save(frame)
        picture.save(frame.with_stem(f"{t}_mask"))
    plan = {
        "source": "photos",
        "saliency": "maps",
        "arms": {"random": {}, "image": {"salient_ratio": 0.25}},
        "seeds": 1,
        "pretrain": {"epochs": 1},
        "evaluate": {"source": "labelled", "test": "labelled-test"},
    }
    (folder / "plan.yaml").write_text(json.dumps(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "build-saliency photos --out maps",
            "pretrain photos --saliency maps --out run",
            "pretrain photos --masking gate --out gated",
            "pretrain clips --out video-run --frames 4",
        ):
            run(line.split(), tiny_clip)
    return folder


def run(words, clip):
    """Runs a command line for real, small, and with the small CLIP in the place of one that would be downloaded."""
    name, *words = words
    small = dict(SMALL.get(name, {}))
    if name == "pretrain" and "--frames" in words:
        small |= VIDEO
    if "mlo" in words:
        small |= {"--batch-size": "1"}  # times the steps of the autoencoder to one of the head
    for protocol in {*OF_PROTOCOLS}.intersection(words):
        small |= OF_PROTOCOLS[protocol]
    if name == "build-saliency" and {"motion", "frame-difference"}.intersection(words):
        small.pop("--batch-size")  # it needs no model
    elif name == "build-saliency" and not any(word.startswith("shapes") for word in words):
        small["--clip"] = clip
        words = _without(words, {"--pretrained", "--clip-size"})
    if name == "build-saliency" and any(word.startswith("local-dir:") for word in words):
        small.pop("--clip")
    words = _without(words, set(small))
    more = [word for pair in small.items() for word in pair]
    at = words.index("--") if "--" in words else len(words)
    words = [*words[:at], *more, *words[at:]]
    if name == "compare":
        words = _small_comparison(words)
    result = CliRunner().invoke(cli.app, [name, *words], catch_exceptions=False)
    assert result.exit_code == 0, f"mae-cli {shlex.join([name, *words])}: {result.output}"
    return result


def _without(words, flags):
    """The words without these options and their values."""
    kept, skip = [], False
    for word in words:
        if not skip and word not in flags:
            kept.append(word)
        skip = word in flags
    return kept


def _small_comparison(words):
    plan = next((Path(word) for word in words if word.endswith(".yaml")), None)
    if plan is None:
        small = {**MODEL, "--workers": "0"}
        at = words.index("--") if "--" in words else len(words)
        own = _without(words[at + 1 :], set(small))
        return [*words[:at], "--", *own, *(word for pair in small.items() for word in pair)]
    import yaml

    text = yaml.safe_load(plan.read_text())
    small = {name.removeprefix("--"): int(value) if value.isdigit() else value for name, value in MODEL.items()}
    text["pretrain"] = {"workers": 0} | {name.replace("-", "_"): value for name, value in small.items()}
    plan.write_text(json.dumps(text))
    return words


@pytest.mark.parametrize("page", RUN, ids=names(RUN))
def test_commands_and_python_run(page, places, tiny_clip, tmp_path, monkeypatch, hf_cache_of_docs):
    found = blocks(page.read_text(), "bash", "python")
    if not found or page.name == "python.md":
        pytest.skip("nothing to run, or run by tests/test_saliency_mae.py")
    shutil.copytree(places, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    lines = [words for language, block in found if language == "bash" for words in commands(block)]
    for place in _made(lines):  # what a page makes is made by its own line
        shutil.rmtree(place, ignore_errors=True)
    namespace = {"__name__": "page"}
    for language, block in found:
        if language == "bash":
            for words in commands(block):
                run(words, tiny_clip)
        elif block.lstrip().startswith(">>>"):
            _run_examples(block, namespace, page.name)
        else:
            exec(compile(block, page.name, "exec"), namespace)
    assert [place for place in _made(lines) if not Path(place).exists()] == []


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "start" / "first-maps.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # a clone stays small, and a change can be read
    namespace = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "first-maps.ipynb", "exec"), namespace)
    assert {"maps", "run"} <= {path.name for path in tmp_path.iterdir()}


def _made(lines):
    for name, *words in lines:
        out = next((each for each in declared_options(KINDS[name]) if each.name == "out"), None)
        if out is not None and "--out" in words and not isinstance(out.option, Argument):
            yield words[words.index("--out") + 1]


def _run_examples(text, namespace, name):
    test = doctest.DocTestParser().get_doctest(text, namespace, name, name, 0)
    result = doctest.DocTestRunner(verbose=False).run(test, clear_globs=False)
    namespace |= test.globs
    assert result.failed == 0, name


@pytest.fixture
def hf_cache_of_docs(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def test_the_reference_is_what_the_code_says():
    from tools import reference

    for name, text in (("options.md", reference.options_page()), ("python.md", reference.python_page())):
        assert (ROOT / "docs" / "reference" / name).read_text() == text.rstrip() + "\n", "python tools/reference.py"


def test_the_errors_page_quotes_what_the_code_says():
    code = "".join(
        path.read_text() for room in ("pipelines", "mae", "saliency") for path in ROOT.glob(f"{room}/**/*.py")
    )
    code = re.sub(r'"\n\s+f?"', "", code)  # a text over several lines
    for quoted in re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "reference" / "errors.md").read_text(), re.M):
        if " " in quoted:
            assert max(quoted.split("…"), key=len).strip() in code, quoted
