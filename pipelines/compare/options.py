"""What ``compare`` can be asked for."""

from dataclasses import dataclass
from typing import Annotated

from pipelines.commandline.option import Argument, Option, check_declared, declared_options
from pipelines.commandline.shared_options import MACHINE, Out
from pipelines.compare.arms import built_in_arms, usual_arms
from pipelines.evaluate.options import EvaluateOptions

WITHOUT_A_PLAN = "Without a plan"
STATISTICS = "What can be said"
"""Panels of ``--help``."""

_PROTOCOLS = next(each for each in declared_options(EvaluateOptions) if each.name == "protocols").choices


@dataclass(frozen=True)
class CompareOptions:
    """What ``compare`` was asked for; the CLI's options under the same names."""

    what: Annotated[str, Argument("A plan (FILE.yaml, see docs/guide/comparing.md), or the source of the images.")]
    out: Out
    arms: Annotated[
        str | None,
        Option(
            f"Arms, separated by commas: those of the plan, or {', '.join(built_in_arms())} [default: all of the "
            f"plan's, or all of these but {', '.join(name for name in built_in_arms() if name not in usual_arms())}]"
        ),
    ] = None
    masks: Annotated[
        tuple[str, ...],
        Option(
            "FILE.py:NAME, your own scores of patches as one more arm, called NAME (docs/guide/your-masks.md). Can "
            "be given several times."
        ),
    ] = ()
    seeds: Annotated[str | None, Option("Number of seeds, or the seeds as 0,1,2 [default: 3, or the plan's]")] = None
    power: Annotated[
        float | None,
        Option(
            "Report how many seeds show a difference of this many percentage points, from the spread of the finished "
            "ones [default: the plan's, or no such report]",
            panel=STATISTICS,
        ),
    ] = None
    margin: Annotated[
        float | None,
        Option(
            "Also test whether arms are equal to the baseline within this many percentage points [default: the plan's, "
            "or no such test]",
            panel=STATISTICS,
        ),
    ] = None
    dry_run: Annotated[
        bool, Option("Check everything, list the runs and their states, say how long the rest takes, and stop.")
    ] = False
    saliency: Annotated[str | None, Option("Maps for the arms that need them.", panel=WITHOUT_A_PLAN)] = None
    labelled: Annotated[str | None, Option("Labelled source to evaluate on [default: WHAT]", panel=WITHOUT_A_PLAN)] = (
        None
    )
    test: Annotated[
        str | None, Option("Source to test on [default: a held-out part of --labelled]", panel=WITHOUT_A_PLAN)
    ] = None
    protocol: Annotated[
        tuple[str, ...],
        Option(
            "How to evaluate, as in evaluate. Can be given several times [default: as in evaluate]",
            choices=_PROTOCOLS,
            panel=WITHOUT_A_PLAN,
        ),
    ] = ()
    jobs: Annotated[
        int, Option("Runs at a time. Each has its share of the cores, or a GPU of its own.", least=1, panel=MACHINE)
    ] = 1
    workers: Annotated[
        int | None,
        Option("Processes of each run that decode images [default: as the cores allow]", least=0, panel=MACHINE),
    ] = None
    device: Annotated[
        str | None, Option("Device, such as cpu or cuda [default: the plan's, or the best available]", panel=MACHINE)
    ] = None
    options: Annotated[
        tuple[str, ...], Argument("Options of pretrain for all arms, given after --. A plan has its own.")
    ] = ()

    def __post_init__(self) -> None:
        check_declared(self)
