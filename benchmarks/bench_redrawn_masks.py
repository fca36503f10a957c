"""How well each path of MLO-MAE foretells the loss of level 3 when masks are drawn anew after T has moved.

    python benchmarks/bench_redrawn_masks.py [--paths weighted drawn] [--exploration 1] [--spread 10]
        [--seeds 0 1 2] [--batch 64] [--steps 40] [--directions 24] [--draws 8] [--move 0.3]

For random directions of T's parameters, the change of level 3's loss that the hypergradient predicts is compared with
the true one (``tests/redrawn_masks.py``). Printed are the correlation, the ratio of true to predicted changes, and how
well two halves of the draws agree: below about 0.9 more draws are needed. Without exploration nothing is drawn: two
draws are the same then, and enough.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from mae.multilevel.draws import PATHS
from tests.redrawn_masks import foretell, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs="+", default=PATHS, choices=PATHS)
    parser.add_argument("--exploration", type=float, default=1.0)
    parser.add_argument("--spread", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    for name, default in (("batch", 64), ("steps", 40), ("directions", 24), ("draws", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--move", type=float, default=0.3)
    asked = parser.parse_args()
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # the library's losses are in float32
    for path in asked.paths:
        for seed in asked.seeds:
            begin = time.perf_counter()
            kinds = {"exploration": asked.exploration, "spread": asked.spread}
            run = trained(seed, path, **kinds, batch=asked.batch, steps=asked.steps)
            found = foretell(run, directions=asked.directions, draws=asked.draws, move=asked.move)
            predicted, true = found.repeated
            print(
                f"{path:16} exploration {asked.exploration:g} spread {asked.spread:g} seed {seed}: "
                f"correlation {found.correlation:.3f}, "
                f"true/predicted {found.ratio:.2f}; halves agree: predicted {predicted:.3f}, true {true:.3f} "
                f"({time.perf_counter() - begin:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
