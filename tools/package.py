"""Builds wheel and sdist, checks them, and runs the wheel in an empty environment.

    python tools/package.py [--out dist] [--environment FOLDER]

What goes in is checked by name, and the metadata by twine. Then the wheel alone is installed, with its dependencies as
``constraints.txt`` pins them and without any extra. There every module is imported but those of extras that are not
installed, and the line from pairs to features runs on a few scenes. Sizes are printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel, source = built(asked.out.resolve())
        check_contents(wheel)
        run_installed(wheel, asked.environment or Path(scratch) / "environment", Path(scratch))
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


def run_installed(wheel: Path, environment: Path, folder: Path) -> None:
    """The wheel in an environment of its own, far from the checkout."""
    venv.create(environment, with_pip=True)
    binaries = environment / ("Scripts" if sys.platform == "win32" else "bin")
    call(binaries / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    call(binaries / "python", "-m", "pip", "check")
    call(binaries / "python", "-c", IMPORT_ALL, folder=folder)
    for words in LINE:
        call(binaries / "mae-cli", *words, folder=folder)


def call(*words: object, folder: Path = ROOT) -> None:
    """Run a command in a folder, after saying so; what fails ends all."""
    shown = " ".join(str(word) for word in words[1:])
    print(f"$ {Path(str(words[0])).name} {shown if len(shown) < 200 else '-c …'}", flush=True)
    if code := subprocess.run([*map(str, words)], cwd=folder, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
