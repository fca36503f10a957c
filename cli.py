"""``mae-cli``: parses and validates, calls one pipeline, prints what it returns.

A user's mistake is one line and exit code 2. An interrupted run says how to go on and exits with 130. Heavy imports
stay inside the commands, so that ``--help`` is instant. What can be asked of a pipeline is declared in its options
dataclass alone, see ``pipelines.commandline.option``; a command names it, and what is left here is what the command
prints.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pipelines.build.options import BuildOptions, MergeOptions
from pipelines.commandline.effects import check_effects
from pipelines.commandline.machine import settled_options
from pipelines.commandline.option import Option, declared_options, given_values
from pipelines.commandline.shared_options import SPEED, DryRun, Quiet
from pipelines.commandline.terminal import fail, guarded, print_facts, print_version, run_app, say, say_next
from pipelines.commandline.typer_commands import with_options
from pipelines.compare.options import CompareOptions
from pipelines.demo.options import DemoOptions
from pipelines.diff.options import DiffOptions
from pipelines.doctor.options import DoctorOptions
from pipelines.encode.options import EncodeOptions
from pipelines.evaluate.options import EvaluateOptions
from pipelines.explore.options import ExploreOptions
from pipelines.export.options import ExportOptions
from pipelines.export_maps.options import ExportMapsOptions
from pipelines.import_maps.options import ImportOptions
from pipelines.inspect.options import InspectOptions
from pipelines.prepare.options import PrepareOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.reconstruct.options import ReconstructOptions
from pipelines.verify.options import VerifyOptions

app = typer.Typer(
    help="Saliency maps for image-caption pairs, and masked autoencoders that use them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Flags that are not given are False: typer would load pydantic, in 50 ms, to make that of None.
    context_settings={"default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False)},
)

T = TypeVar("T")

Given = dict[str, Any]
"""What the command line took for the fields of an options dataclass; None or [] where nothing was given."""


_KINDS: dict[str, type[Any]] = {}
"""The options dataclass of every command."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line on these words, by default those of the process, and exits."""
    sys.exit(run_app(app, "mae-cli", words))


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def command(kind: type[Any], *, saved: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command of the function's name and docstring; the fields of ``kind`` and its parameters are its options.

    They are ``saved`` in the folder that it writes.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _KINDS[function.__name__.replace("_", "-")] = kind
        return app.command()(guarded(with_options(function, kind, saved=saved)))

    return add


@command(BuildOptions)
def build_saliency(
    given: Given,
    report: Annotated[bool, Option("Print the time of each stage and the bottleneck.", panel=SPEED)] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Compute saliency maps of image-caption pairs with CLIP and write them as Parquet."""
    from pipelines.build.build_saliency import build_saliency as build
    from pipelines.build.dry_run import dry_run as look
    from pipelines.build.stages import Stages

    stages = Stages()
    options = _options(BuildOptions, given)
    if dry_run:
        return print_facts(look(options))
    manifest = build(options, stages=stages, quiet=quiet)
    say(_counts(manifest, options.out))
    if report:
        print_facts(stages.table(), title="Where the time went")
    if options.shard:
        say_next("merge", options.out, when=", once all parts are done", quiet=quiet)
    else:
        say_next("inspect", options.out, "--gallery", "maps.png", quiet=quiet)


@command(MergeOptions)
def merge(given: Given, quiet: Quiet = False) -> None:
    """Check that all parts of a job array (build-saliency --shard i/n) are there, and merge them."""
    from pipelines.build.merge import merge as join

    maps = _options(MergeOptions, given).maps
    manifest = join(maps)
    say(f"{manifest.taken} pairs: {manifest.written} maps in {maps / 'data'}, {manifest.rejected} rejected")
    say_next("verify", maps, quiet=quiet)


@command(ImportOptions)
def import_maps(given: Given, quiet: Quiet = False) -> None:
    """Import true masks, fixations or another tool's maps as a maps folder."""
    from pipelines.import_maps.import_maps import import_maps as take_in

    options = _options(ImportOptions, given)
    say(_counts(take_in(options, quiet=quiet), options.out))
    say_next("inspect", options.out, "--gallery", "maps.png", quiet=quiet)


@command(ExportMapsOptions)
def export_maps(given: Given, quiet: Quiet = False) -> None:
    """Write every map of a maps folder as a PNG or NPY file."""
    from pipelines.export_maps.export_maps import export_maps as write
    from pipelines.outputs import INDEX

    options = _options(ExportMapsOptions, given)
    count = write(options, quiet=quiet)
    say(f"{count} maps in {options.out}; {INDEX} lists their keys and captions")
    say_next("import-maps", "SOURCE", "--from", options.out, "--out", "maps", quiet=quiet)


@command(InspectOptions)
def inspect(given: Given, quiet: Quiet = False) -> None:
    """Describe maps, a run or a source of images.

    Maps are also scored, and compared with a centre prior, a shuffled caption and a uniform map. With --masks they show
    which patches a training would hide.
    """
    from pipelines.inspect.faithful_verdict import print_faithfulness
    from pipelines.inspect.hidden_verdict import print_hidden
    from pipelines.inspect.inspect import inspect as look
    from pipelines.inspect.map_verdict import print_map_scores

    options = _options(InspectOptions, given)
    found = look(options, quiet=quiet)
    print_facts(found.facts)
    if found.map_scores:
        print_map_scores(found.map_scores)
    if found.faithfulness:
        print_faithfulness(found.faithfulness)
    if found.hidden:
        print_hidden(found.hidden)
    if unmet := found.unmet(options.require):
        fail(f"the maps do not beat the centre prior in {', '.join(unmet)}", 1, "not met")
    masked = ("--salient-ratio", f"{options.salient_ratio:g}") if options.masks else ()
    say_next(
        *{
            "maps": ("pretrain", options.source or "SOURCE", "--saliency", options.what, *masked, "--out", "run"),
            "run": ("evaluate", options.what, "LABELLED"),
            "source": ("build-saliency", options.what, "--out", "maps"),
        }[found.kind],
        quiet=quiet,
    )


@command(DoctorOptions)
def doctor(given: Given, quiet: Quiet = False) -> None:
    """Say in words whether a run learns, and what to do where it does not.

    The exit code is 0 whatever is found.
    """
    from pipelines.doctor.doctor import doctor as look

    options = _options(DoctorOptions, given)
    found = look(options)
    marks = {"good": "ok", "note": "note", "bad": "ACT"}
    print_facts({each.name: f"{marks[each.state]:<6}{each}" for each in found.findings})
    say(found.verdict)
    say_next("evaluate", options.run, "LABELLED", quiet=quiet)


@command(VerifyOptions)
def verify(given: Given, quiet: Quiet = False) -> None:
    """Check that a maps folder is whole and belongs to its images.

    The exit code is 1 if a check fails.
    """
    from pipelines.verify.verify import verify as check

    options = _options(VerifyOptions, given)
    checks = check(options, quiet=quiet)
    print_facts({item.name: f"{'ok' if item.passed else 'FAILED':<8}{item.found}" for item in checks})
    failed = sum(not item.passed for item in checks)
    if failed:
        fail(f"{failed} of {len(checks)} checks failed", 1)
    say(f"all {len(checks)} checks passed")
    say_next(*("pretrain", options.source or "SOURCE", "--saliency", options.maps, "--out", "run"), quiet=quiet)


@command(DiffOptions)
def diff(given: Given, quiet: Quiet = False) -> None:
    """Compare two tables of maps: which pairs came, went or changed, and how far the maps agree."""
    from pipelines.diff.diff import diff as compare_maps

    options = _options(DiffOptions, given)
    found = compare_maps(options, quiet=quiet)
    print_facts(found.facts())
    if table := found.table():
        say(f"\n{table}")
    if found.files:
        say(f"\nall figures are in {found.files[0]}, the pairs in {', '.join(path.name for path in found.files[1:])}")


@command(PublishOptions)
def publish(given: Given, quiet: Quiet = False) -> None:
    """Publish maps, URLs and captions as a dataset on the Hub, with a card and preview pictures.

    Photos are not published, except in the preview with --with-images.
    """
    from pipelines.publish.publish import publish as upload

    options = _options(PublishOptions, given)
    print_facts(upload(options, quiet=quiet))
    if options.dry_run is None:
        say_next("pretrain", "SOURCE", "--saliency", options.name, "--out", "run", quiet=quiet)
    else:
        say_next("publish", options.maps, options.name, quiet=quiet)


@command(PretrainOptions)
def pretrain(given: Given, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Pretrain a masked autoencoder that hides a chosen share of the salient patches."""
    if dry_run:
        from pipelines.pretrain.dry_run import dry_run as look

        return print_facts(look(_options(PretrainOptions, given)))
    from pipelines.pretrain.pretrain import pretrain as train
    from pipelines.pretrain.pretrain import summary
    from pipelines.pretrain.processes import agreed, one_world
    from pipelines.report.run_report import write_report

    with one_world(given["device"]) as world:
        with agreed(world):
            options = _options(PretrainOptions, given)
        run = train(options, quiet=quiet, world=world)
        if world.is_main:
            write_report(run)
            for line in summary(run):
                say(line)
            say_next("evaluate", options.out, "LABELLED", quiet=quiet)


@command(PrepareOptions)
def prepare(given: Given, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Write smaller copies of a source's images, with all that is known of them, as Parquet or tars for fast epochs."""
    from pipelines.prepare.dry_run import dry_run as look
    from pipelines.prepare.prepare import prepare as make
    from pipelines.prepare.prepare import summary

    options = _options(PrepareOptions, given)
    if dry_run:
        return print_facts(look(options))
    say(summary(make(options, quiet=quiet), options.out))
    say_next("pretrain", options.out, "--out", "run", quiet=quiet)


@command(EvaluateOptions)
def evaluate(given: Given, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Evaluate an encoder by probes, fine-tuning, occlusion or masks, against the same encoder with random weights."""
    if dry_run:
        from pipelines.evaluate.dry_run import dry_run as look

        return print_facts(look(_options(EvaluateOptions, given)))
    from pipelines.evaluate.encoders.speed import unmet
    from pipelines.evaluate.evaluate import evaluate as measure
    from pipelines.evaluate.results.printed import print_evaluation, remarks
    from pipelines.report.run_report import refresh_report

    options = _options(EvaluateOptions, given)
    result = measure(options, quiet=quiet)
    print_evaluation(result)
    for line in remarks(result):
        say(line)
    if options.file is not None:
        refresh_report(options.file.parent)
        say(f"all figures are in {options.file}")
    if options.require and (missed := unmet(result, options.require)):
        fail("; ".join(missed), 1, "not met")
    say_next("compare", options.source, "--out", "comparison", quiet=quiet)


@command(ReconstructOptions)
def reconstruct(given: Given, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Fill in the hidden regions of images or a video. All other pixels stay as they are."""
    if dry_run:
        from pipelines.reconstruct.dry_run import dry_run as look

        return print_facts(look(_options(ReconstructOptions, given)))
    from pipelines.frames.options import is_stream
    from pipelines.reconstruct.reconstruct import reconstruct as fill_in
    from pipelines.reconstruct.reconstruct_video import reconstruct_video

    options = _options(ReconstructOptions, given)
    if is_stream(options.input, as_video=options.as_video):
        print_facts(reconstruct_video(options, quiet=quiet).facts(options.stall_timeout))
    else:
        print_facts(fill_in(options, quiet=quiet).facts(options.out))


@command(EncodeOptions)
def encode(given: Given, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Compute the features of images, or of a video as its frames arrive."""
    if dry_run:
        from pipelines.encode.dry_run import dry_run as look

        return print_facts(look(_options(EncodeOptions, given)))
    from pipelines.encode.encode import encode as write

    options = _options(EncodeOptions, given)
    print_facts(write(options, quiet=quiet).facts(options))


@command(CompareOptions)
def compare(given: Given, quiet: Quiet = False) -> None:
    """Pretrain with several maskings and seeds, evaluate every run and report the differences.

    The exit code is 2 if a run fails.
    """
    from pipelines.compare.compare import compare as run_all
    from pipelines.compare.compare import dry_run as look
    from pipelines.compare.comparison import print_comparison
    from pipelines.compare.forecast import forecast
    from pipelines.compare.plan import asked_plan

    options = _options(CompareOptions, given)
    plan, out = asked_plan(options), options.out
    machine: dict[str, Any] = {"jobs": options.jobs, "device": options.device, "workers": options.workers}
    if options.dry_run:
        states = look(plan, out, **machine)
        print_facts({unit.name: state for unit, state in states}, title="Every run and its state")
        return print_facts(forecast(states, options.jobs))
    found = run_all(plan, out, quiet=quiet, **machine)
    print_comparison(found)
    say(f"the report, with plots and limits, is {out / 'report.md'}; the runs are in {out / 'runs'}")
    if found.failed:
        fail(f"{len(found.failed)} runs failed; the same command runs them again, and no others", 2)
    say_next("export", f"{out}/runs/ARM/seed-SEED", "--to", "timm", "--out", "exported", quiet=quiet)


@command(ExploreOptions, saved=False)
def explore(given: Given) -> None:
    """Look at pairs, maps, masks and what models fill in, in the browser.

    It serves this machine alone, unless --host says otherwise.
    """
    from pipelines.explore.explore import explore as serve

    serve(_options(ExploreOptions, given), say=say)


@command(ExportOptions, saved=False)  # what is exported is for others, and the paths of this machine are not
def export(given: Given, quiet: Quiet = False) -> None:
    """Write a model as facebookresearch/mae, timm or transformers read it, equal to the bit, or as a file for ONNX
    Runtime.
    """
    options = _options(ExportOptions, given)
    if options.to == "onnx":
        from pipelines.export.onnx_file import export_onnx

        print_facts(export_onnx(options, quiet=quiet))
        say_next("evaluate", options.out, "LABELLED", "--beside", options.run, quiet=quiet)
        return
    from pipelines.export.export import export as write

    line = write(options.run, options.to, options.out)
    say(f"the weights are in {options.out}; open them with\n{line}")


@command(DemoOptions)
def demo(given: Given, quiet: Quiet = False) -> None:
    """Run everything on built-in scenes: maps, two pretrainings, evaluation and plots.

    It takes minutes on two cores.
    """
    options = _options(DemoOptions, given)
    if options.video:
        from pipelines.demo.demo_video import print_recovery, run_video_demo

        out = options.out or Path("demo-video-out")
        print_recovery(run_video_demo(out, seed=options.seed, device=options.device, quiet=quiet), out)
        say_next("reconstruct", out / "video-run", "VIDEO", "--box", "0.2,0.3,0.5,0.7", "--out", "filled", quiet=quiet)
    else:
        from pipelines.demo.demo import print_demo, run_demo

        out = options.out or Path("demo-out")
        print_demo(run_demo(out, seed=options.seed, device=options.device, quiet=quiet), out)


@app.command()
@guarded
def config(
    command: Annotated[str, typer.Argument(help="The command that the file is for.", autocompletion=lambda: [*_KINDS])],
) -> None:
    """Print a file for --config of a command, with every option as a comment."""
    from pipelines.commandline.config_file import config_text
    from pipelines.errors import UserError

    if command not in _KINDS:
        raise UserError(f"there is no command {command!r}; there are {', '.join(_KINDS)}")
    typer.echo(config_text(command, declared_options(_KINDS[command])), nl=False)


def _counts(manifest: Any, out: Path) -> str:
    """What became of all pairs, in a line."""
    rejected = f", {manifest.rejected} rejected in {out / 'rejected'}" if manifest.rejected else ""
    return f"{manifest.taken} pairs: {manifest.written} maps in {out / 'data'}{rejected}"


def _options(kind: type[T], given: Given) -> T:
    """The options of a pipeline from what was given, and settled by the machine; a bad value is the user's error."""
    from pipelines.errors import user_errors

    with user_errors():
        values = given_values(kind, given)
        options = kind(**values | settled_options(kind, given))
        check_effects(options, values)
        return options


if __name__ == "__main__":
    main()
