"""What the steps of a training of several levels have cost: passes and FLOPs of each level.

FLOPs are counted at the first step of each kind, those in which T learns and those in which it waits, and multiplied by
the number of such steps: all steps of a kind take batches of one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mae.multilevel.nested import Passes


class Ledger:
    """Passes and FLOPs by level; of runs that go on, with what was spent before."""

    def __init__(self, levels: tuple[str, ...]) -> None:
        self.levels = levels
        self.flops: dict[str, dict[str, int]] = {}
        """By kind of step, by level."""
        self.steps: dict[str, int] = {}
        """By kind."""
        self._earlier = {name: Passes() for name in levels}

    def passes(self, now: Mapping[str, Passes]) -> dict[str, Passes]:
        """Passes of each level, those before a resumption included; ``now`` are those since."""
        return {
            name: Passes(
                earlier.forward + now[name].forward,
                earlier.backward + now[name].backward,
                earlier.second + now[name].second,
            )
            for name, earlier in self._earlier.items()
        }

    def made(self, kind: str, counted: Mapping[str, int]) -> None:
        """A step of this kind is done, whose FLOPs were ``counted`` if it is the first."""
        self.flops.setdefault(kind, dict(counted))
        self.steps[kind] = self.steps.get(kind, 0) + 1

    def cost(self, now: Mapping[str, Passes]) -> dict[str, dict[str, float]]:
        """What all steps so far took, by level: forward and backward passes over a batch, and FLOPs."""
        return {
            name: {
                "forward": passes.forward,
                "backward": passes.backward,
                "second_backward": passes.second,
                "flops": sum(self.flops[kind].get(name, 0) * count for kind, count in self.steps.items()),
            }
            for name, passes in self.passes(now).items()
        }

    def flops_of_a_step(self) -> float:
        """The mean over the steps so far; 0 before the first."""
        total = sum(sum(self.flops[kind].values()) * count for kind, count in self.steps.items())
        return total / max(sum(self.steps.values()), 1)

    def state(self, now: Mapping[str, Passes]) -> dict[str, Any]:
        """Plain values for :meth:`load_state`."""
        passes = {name: asdict(passes) for name, passes in self.passes(now).items()}
        return {"passes": passes, "flops": self.flops, "steps_by_kind": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Undoes :meth:`state`; in those of earlier versions T learned at every step."""
        self._earlier = {name: Passes(**values) for name, values in state["passes"].items()}
        flops = dict(state["flops"])
        self.steps = dict(state.get("steps_by_kind", {"learns": int(state["step"])}))
        self.flops = flops if "steps_by_kind" in state else {"learns": flops}
