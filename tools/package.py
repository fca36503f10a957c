"""Builds wheel and sdist, checks them, and runs the wheel in an empty environment.

    python tools/package.py [--out dist] [--environment FOLDER] [--download]

What goes in is checked by name, and the metadata by twine. Then the wheel is put into an environment of its own, with
what it requires and without any extra. What it requires takes 6 GB, so it is linked from the environment that runs
this script. ``--download`` installs it with pip instead, as ``constraints.txt`` pins it. There every module is imported
but those of extras, and the line from pairs to features runs on a few scenes. Sizes are printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OURS = {"cli.py", "saliency_mae.py", "saliency", "mae", "pipelines"}
NEEDED = {
    *("saliency/towers/demo_clip/open_clip_model.safetensors", "saliency/py.typed", "mae/py.typed", "cli.py"),
    "pipelines/explore/page/index.html",
}
LARGEST = 6_000_000  # bytes of the wheel, most of it the shipped CLIP
EXTRAS = {
    *("av", "captum", "onnx", "onnxruntime", "onnxscript", "pytorch_grad_cam"),
    *("ray", "starlette", "tensorboard", "ttach", "uvicorn", "wandb"),
}

IMPORT_ALL = f"""
import importlib, pkgutil
for package in ("saliency", "mae", "pipelines", "cli", "saliency_mae"):
    top = importlib.import_module(package)
    for module in pkgutil.walk_packages(getattr(top, "__path__", []), package + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in {EXTRAS!r}:
                raise
            print("needs an extra:", module.name, error.name)
"""
SMALL = ("--model", "mini", "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--workers", "0", "--quiet")
LINE = (
    ("--version",),
    ("build-saliency", "shapes:16", "--out", "maps", "--quiet"),
    ("inspect", "maps", "--quiet"),
    ("pretrain", "shapes:16", "--saliency", "maps", "--out", "run", *SMALL),
    ("evaluate", "run", "shapes:40", "--workers", "0", "--quiet"),
    ("export", "run", "--to", "timm", "--out", "exported"),
)


def main() -> None:
    """See above; exits with 1 at the first thing that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--environment", type=Path, help="make the environment here, and leave it")
    parser.add_argument("--download", action="store_true", help="install what the wheel requires with pip")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel, source = built(asked.out.resolve())
        check_contents(wheel)
        environment = asked.environment or Path(scratch) / "environment"
        run_installed(wheel, environment, Path(scratch), download=asked.download)
    for file in (wheel, source):
        print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


def built(out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, whose metadata twine has read."""
    for old in (*out.glob("*.whl"), *out.glob("*.tar.gz")):
        old.unlink()
    call(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    call(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    return wheel, source


def check_contents(wheel: Path) -> None:
    """Everything that is needed is in it, nothing of others, and it is not too large."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    strange = {name for name in names if name.split("/")[0] not in OURS and ".dist-info/" not in name}
    if strange or NEEDED - names or wheel.stat().st_size > LARGEST:
        sys.exit(
            f"{wheel.name}: strange {sorted(strange)}, missing {sorted(NEEDED - names)}, {wheel.stat().st_size} bytes"
        )


def run_installed(wheel: Path, environment: Path, folder: Path, *, download: bool) -> None:
    """The wheel in an environment of its own, far from the checkout."""
    venv.create(environment, with_pip=True)
    binaries = environment / ("Scripts" if sys.platform == "win32" else "bin")
    install = (binaries / "python", "-m", "pip", "install", "--quiet")
    if download:
        call(*install, "-c", ROOT / "constraints.txt", wheel)
    else:
        call(*install, "--no-deps", wheel)
        (site,) = environment.glob("Lib/site-packages" if sys.platform == "win32" else "lib/*/site-packages")
        link_required("saliency-mae", site)
    call(binaries / "python", "-m", "pip", "check")
    call(binaries / "python", "-c", IMPORT_ALL, folder=folder)
    for words in LINE:
        call(binaries / "mae-cli", *words, folder=folder)


def link_required(name: str, site: Path) -> None:
    """Link what a distribution requires, and what that requires, from this environment into a ``site-packages``."""
    for required in all_required(name) - {name}:
        for top in {file.parts[0] for file in distribution(required).files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(distribution(required).locate_file(top)))


def all_required(name: str) -> set[str]:
    """The names of a distribution and of all that it requires here, without its extras."""
    waiting, seen = [(name, "")], {(name, "")}
    while waiting:
        name, extra = waiting.pop()
        for needed in map(Requirement, requires(name) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                new = {(canonicalize_name(needed.name), extra) for extra in ("", *needed.extras)} - seen
                seen |= new
                waiting += new
    return {name for name, _ in seen}


def call(*words: object, folder: Path = ROOT) -> None:
    """Run a command in a folder, after saying so; what fails ends all."""
    shown = " ".join(str(word) for word in words[1:])
    print(f"$ {Path(str(words[0])).name} {shown if len(shown) < 200 else '-c …'}", flush=True)
    if code := subprocess.run([*map(str, words)], cwd=folder, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
