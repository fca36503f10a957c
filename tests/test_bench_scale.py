import subprocess
import sys

import pytest
from typer.testing import CliRunner

import cli
from benchmarks import bench_scale

ROWS, FILES = 2000, 200
REJECTED = 3  # one in 512
FOUND = {
    "read the maps twice": "",
    "decode the maps": f"{ROWS - REJECTED}",
    "join": f"{ROWS} pairs, {REJECTED} without a map, keys ",
    "list the names": f"{FILES}",
    "files": f"{FILES} images, 0 classes",
    "read the packets": "1500",
    "video": "1 video, 1500 frames, 59.96 s",
}
SAID = {
    "merge": f"{ROWS} pairs: {ROWS - REJECTED} maps in ",
    "verify": "all 10 checks passed",
    "verify with a source": "all 12 checks passed",
    "inspect": "There are no true masks",
    "publish": "(nothing was uploaded)",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("scale")
    bench_scale.make(place, ROWS, 7, FILES, minutes=1)
    return place


def test_every_step_finds_what_was_made(place):
    for name, said in SAID.items():
        bench_scale.BEFORE.get(name, lambda _: None)(place)
        done = CliRunner().invoke(cli.app, bench_scale.words_of(name, place)[3:])
        assert done.exit_code == 0, (name, done.output)
        assert said in " ".join(done.output.split()), name
    for name, found in FOUND.items():
        assert str(bench_scale.FUNCTIONS[name](place)).startswith(found), name
    size = sum(path.stat().st_size for path in place.glob("maps/data/*"))
    assert bench_scale.read(place, "maps/data/*", 2) == f"{2 * size / 1e9:.3f} GB"


def test_the_time_and_memory_of_a_process_are_its_own():
    words = [sys.executable, "-c"]
    much = bench_scale.measured([*words, "x = b'x' * 300_000_000; print('first'); print('last')"])
    assert much.gigabytes > 0.3  # and at least what this process holds, see measured
    assert 0 < much.cpu_seconds < 10
    assert much.said == "last"
    little = bench_scale.measured([*words, "import time; time.sleep(0.3)"])
    assert 0.3 <= little.seconds < 10
    assert little.cpu_seconds < little.seconds
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        bench_scale.measured([*words, "raise SystemExit(3)"])


def test_the_script_prints_a_table(place):
    sizes = ["--rows", f"{ROWS}", "--files", f"{FILES}", "--minutes", "1", "--folder", str(place)]
    words = [sys.executable, bench_scale.__file__, *sizes, "--steps", "list the names"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    name, seconds, cpu_seconds, gigabytes, said = printed.splitlines()[-1].strip("| ").split(" | ")
    assert (name, said) == ("list the names", f"{FILES}")
    assert 0 <= float(seconds) < 20
    assert float(cpu_seconds) < 5
    assert 0.005 < float(gigabytes) < 0.1
