"""Files for ONNX Runtime on a small machine: size, memory, start, frames a second, energy; and tables of latency.

    python benchmarks/bench_edge.py FILE.onnx [FILE.onnx …]
    python benchmarks/bench_edge.py --table [--sizes tiny small base] [--rounds 60] [--markdown FILE]

The first form runs each file in a fresh process that has numpy and onnxruntime alone. Memory is the largest resident
set, over that of the process before it opens the file in brackets; the first frame is timed from the start of the
interpreter. Energy is ``perf``'s energy-pkg, where the machine gives it.

``--table`` exports models of 224 pixels with random weights: float32 with all patches against float32 and int8 with
half of them, by the centre and by a gate; and ONNX Runtime's static quantisation (QDQ) of the same products, calibrated
with noise, which ``export`` does not offer. Calls of all files of a size take turns; of each the shortest time counts.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mae.mask_learners.gate import Gate, save_gate
from mae.models.vit import MaskedAutoencoder
from mae.on_device.latency import shortest_times
from mae.on_device.session import DeviceModel
from pipelines.export.onnx_file import export_onnx
from pipelines.export.options import ExportOptions

ALONE = """
import json, os, re, sys, time
file, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
import numpy as np, onnxruntime as ort

def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])

before = peak()
settings = ort.SessionOptions()
settings.intra_op_num_threads = threads
session = ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
height, width = session.get_inputs()[0].shape[1:3]
frame = {"image": np.zeros((1, height, width, 3), np.uint8)}
session.run(["class_token"], frame)
with open("/proc/self/stat") as stat:
    started = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
first = time.clock_gettime(time.CLOCK_BOOTTIME) - started
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    begin = time.perf_counter()
    session.run(["class_token"], frame)
    times.append(time.perf_counter() - begin)
most = peak()
print(json.dumps({"first": first, "peak": most, "more": most - before, "frames": len(times), "best": min(times)}))
"""

VARIANTS = {
    "float32, all patches": {},
    "float32, half by the centre": {"keep": "0.5", "keep_by": "center"},
    "int8, all patches": {"int8": True},
    "int8, half by the centre": {"keep": "0.5", "keep_by": "center", "int8": True},
    "int8, half by the gate": {"keep": "0.5", "int8": True},
}
STATIC = "int8 static, all patches"


def alone(file: Path, threads: int, seconds: float) -> dict[str, float]:
    """What a process of its own measures on a file, with the energy of the package in joules where it can be had."""
    command = [sys.executable, "-c", ALONE, str(file), str(threads), str(seconds)]
    perf = shutil.which("perf")
    if perf:
        counted = subprocess.run(
            [perf, "stat", "-x,", "-e", "power/energy-pkg/", *command], capture_output=True, text=True
        )
        joules = re.search(r"^([\d.]+),Joules", counted.stderr, re.MULTILINE)
        if counted.returncode == 0:
            return json.loads(counted.stdout) | ({"joules": float(joules[1])} if joules else {})
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_files(files: list[Path], seconds: float) -> list[str]:
    lines = [
        "| file | MB | first frame, s | memory, MB | frames/s, 1 thread | 2 threads | mJ a frame |",
        "|---|" + "---|" * 6,
    ]
    for file in files:
        one, two = (alone(file, threads, seconds) for threads in (1, 2))
        energy = f"{1e3 * one['joules'] / one['frames']:.0f}" if "joules" in one else "–"
        memory = f"{one['peak'] / 1e3:.0f} ({one['more'] / 1e3:.0f})"
        size = f"{file.stat().st_size / 1e6:.1f}"
        rates = f"{1 / one['best']:.0f} | {1 / two['best']:.0f}"
        lines.append(f"| {file.stem} | {size} | {one['first']:.2f} | {memory} | {rates} | {energy} |")
    return lines


class Noise(CalibrationDataReader):
    """Eight images of noise, for which alone the ranges of the activations hold: this is about time."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = iter([rng.integers(0, 256, (1, 224, 224, 3), np.uint8) for _ in range(8)])

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"image": image}


def static_int8(file: Path, target: Path) -> None:
    quantize_static(
        file,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def export_all(name: str, folder: Path) -> dict[str, Path]:
    """The files of VARIANTS of a size, with random weights."""
    torch.manual_seed(0)
    model = MaskedAutoencoder.from_size(name, 224)
    model.save_pretrained(folder / name)
    save_gate(Gate(model.pos_embed.shape[-1]), folder / name / "gate.safetensors")
    files = {}
    for number, (variant, options) in enumerate(VARIANTS.items()):
        files[variant] = folder / f"{name}-{number}.onnx"
        told = export_onnx(ExportOptions(folder / name, "onnx", files[variant], **options))
        print(f"{name}, {variant}: {told['difference']}", file=sys.stderr, flush=True)
    files[STATIC] = folder / f"{name}-static.onnx"
    static_int8(files[next(iter(VARIANTS))], files[STATIC])
    return files


def measure_latency(name: str, files: dict[str, Path], rounds: int, seconds: float) -> list[str]:
    rows: dict[str, list[str]] = {variant: [f"{file.stat().st_size / 1e6:.1f}"] for variant, file in files.items()}
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    for threads in (1, 2):
        opened = {variant: DeviceModel(file, threads) for variant, file in files.items()}
        calls = {variant: (lambda model=model: model.features(image)) for variant, model in opened.items()}
        best = shortest_times(calls, rounds=rounds, seconds=seconds)
        whole = best[next(iter(best))]
        for variant, time in best.items():
            rows[variant] += [f"{1e3 * time:.2f}", f"{whole / time:.2f}×"]
    return [f"| {name}, {variant} | {' | '.join(cells)} |" for variant, cells in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--sizes", nargs="*", default=["tiny", "small", "base"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a file, and twenty times that of a table's size")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    lines = []
    if missing := [str(file) for file in arguments.files if not file.is_file()]:
        parser.error(f"there is no file {', '.join(missing)}")
    if arguments.files:
        lines += [*measure_files(arguments.files, arguments.seconds), ""]
    if arguments.table or not arguments.files:
        lines += ["| model, 224 px | MB | ms, 1 thread | | ms, 2 threads | |", "|---|" + "---|" * 5]
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.sizes:
                files = export_all(name, Path(folder))
                lines += measure_latency(name, files, arguments.rounds, 20 * arguments.seconds)
                print("\n".join(lines[-len(VARIANTS) - 1 :]), file=sys.stderr, flush=True)
        lines.append("")
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"
    lines.append(f"{versions}, {platform.machine()}, shortest of up to {arguments.rounds} rounds in turns")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
