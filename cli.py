"""``mae-cli``: parses and validates, calls one pipeline, prints what it returns.

A user's mistake is one line and exit code 2. An interrupted run says how to go on and exits with 130. Heavy imports
stay inside the commands, so that ``--help`` is instant. What can be asked of a pipeline is declared in its options
dataclass alone, see ``pipelines.commandline.option``; a command names it, and what is left here is what the command
prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipelines.build.options import BuildOptions
from pipelines.commandline.machine import half_the_cores, usable_device
from pipelines.commandline.option import Argument, Option, given_values
from pipelines.commandline.shared_options import (
    DEVICE,
    AsVideo,
    Fps,
    FrameLimit,
    Out,
    RawSize,
    Seed,
    StallTimeout,
    StreamInput,
)
from pipelines.commandline.terminal import fail, guarded, print_facts
from pipelines.commandline.typer_commands import with_options
from pipelines.evaluate.options import EvaluateOptions
from pipelines.prepare.options import PrepareOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.verify.options import VerifyOptions

if TYPE_CHECKING:
    from pipelines.frames.live import LiveOptions

app = typer.Typer(
    help="Saliency maps for image-caption pairs, and masked autoencoders that use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

T = TypeVar("T")

Given = dict[str, Any]
"""What the command line took for the fields of an options dataclass; None or [] where nothing was given."""
Device = Annotated[str | None, DEVICE]


def command(
    kind: type[Any] | None = None, *, before: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command of the function's name and docstring, with its parameters and the fields of ``kind`` as options."""
    return lambda function: app.command()(guarded(with_options(function, kind, before=before)))


@command(BuildOptions, before="max_rejected")
def build_saliency(
    given: Given,
    report: Annotated[bool, Option("Print the time by stage and the bottleneck.")] = False,
) -> None:
    """Run CLIP and Grad-CAM over image-caption pairs and write their saliency maps as Parquet."""
    from pipelines.build.build_saliency import build_saliency as build
    from pipelines.build.stages import Stages

    stages = Stages()
    options = _options(BuildOptions, given, workers=given["workers"] or half_the_cores())
    manifest = build(options, stages=stages)
    typer.echo(
        f"{manifest.taken} pairs: {manifest.written} maps in {options.out / 'data'}"
        + (f", {manifest.rejected} rejected in {options.out / 'rejected'}" if manifest.rejected else "")
        + (f"; when all parts are done: mae-cli merge {options.out}" if options.shard else "")
    )
    if report:
        print_facts(stages.table(), title="Where the time went")


@command()
def merge(
    maps: Annotated[Path, Argument("The --out of all parts of a job array.")],
) -> None:
    """Check that the parts of a job array (build-saliency --shard i/n) are all there, and make them one."""
    from pipelines.build.merge import merge as join

    manifest = join(maps)
    typer.echo(f"{manifest.taken} pairs: {manifest.written} maps in {maps / 'data'}, {manifest.rejected} rejected")


@command()
def inspect(
    what: Annotated[str, Argument("A maps folder, a run folder or a source.")],
    source: Annotated[str | None, Option("Where a maps folder's images are now; other images for a gate.")] = None,
    gallery: Annotated[
        Path | None, Option("PNG to draw samples into; more pages, the best and the worst lie beside it.")
    ] = None,
    gallery_size: Annotated[int, Option("Pairs to draw, evenly spaced; 12 a page.", least=1)] = 12,
    limit: Annotated[int, Option("Pairs to judge at most, evenly spaced.", least=1)] = 500,
    json: Annotated[Path | None, Option("File that takes everything as numbers.")] = None,
    require: Annotated[
        list[str] | None,
        Option("pointing, energy, iou or auc: exit with 1 unless the maps beat the centre prior in it."),
    ] = None,
    gate: Annotated[bool, Option("Of a run: what its gate finds important, on --source or its own images.")] = False,
    device: Device = None,
) -> None:
    """Describe maps, a run or a source; judge maps beside a centre prior, a shuffled caption and a uniform map."""
    from pipelines.inspect.inspect import inspect as look
    from pipelines.inspect.map_verdict import print_judgement

    found = look(
        what,
        source=source,
        gallery=gallery,
        gallery_size=gallery_size,
        limit=limit,
        device=usable_device(device),
        json_file=json,
        require=tuple(require or ()),
        gate=gate,
        quiet=False,
    )
    print_facts(found.facts)
    if found.judgement:
        print_judgement(found.judgement)
    if unmet := found.unmet(require or ()):
        fail(f"the maps do not beat the centre prior in {', '.join(unmet)}", 1, "not met")


@command(VerifyOptions)
def verify(given: Given) -> None:
    """Check that a maps folder is whole and belongs to its images; exit code 1 if a check fails."""
    from pipelines.verify.verify import verify as check

    checks = check(_options(VerifyOptions, given))
    print_facts({item.name: f"{'ok' if item.passed else 'FAILED':<8}{item.found}" for item in checks})
    failed = sum(not item.passed for item in checks)
    if failed:
        fail(f"{failed} of {len(checks)} checks failed", 1)
    typer.echo(f"all {len(checks)} checks passed")


@command(PublishOptions)
def publish(given: Given) -> None:
    """Publish maps as a dataset on the Hub, with a card and pictures; URLs, captions and maps, no photos."""
    from pipelines.publish.publish import publish as upload

    print_facts(upload(_options(PublishOptions, given)))


@command(PretrainOptions)
def pretrain(given: Given) -> None:
    """Pretrain a masked autoencoder, hiding a chosen share of salient patches."""
    from pipelines.pretrain.pretrain import pretrain as train
    from pipelines.pretrain.pretrain import summary
    from pipelines.pretrain.processes import agreed, one_world

    with one_world(given["device"]) as world:
        with agreed(world):
            workers = half_the_cores(world.local_size) if given["workers"] is None else given["workers"]
            options = _options(PretrainOptions, given, workers=workers)
        run = train(options, world=world)
        for line in summary(run) if world.is_main else ():
            typer.echo(line)


@command(PrepareOptions)
def prepare(given: Given) -> None:
    """Write a source's images small, with all that is known of them, into Parquet or tars: for fast epochs."""
    from pipelines.prepare.prepare import prepare as make
    from pipelines.prepare.prepare import summary

    options = _options(PrepareOptions, given, workers=given["workers"] or half_the_cores())
    typer.echo(summary(make(options), options.out))


@command(EvaluateOptions)
def evaluate(given: Given) -> None:
    """Judge an encoder by probes, fine-tuning, occlusion, masks, beside itself untrained; goes on where it stopped."""
    from pipelines.evaluate.evaluate import evaluate as judge
    from pipelines.evaluate.evaluate import remarks
    from pipelines.evaluate.printed import print_evaluation

    workers = half_the_cores() if given["workers"] is None else given["workers"]
    result = judge(_options(EvaluateOptions, given, workers=workers))
    print_evaluation(result)
    for line in remarks(result):
        typer.echo(line)


@command()
def reconstruct(
    run: Annotated[Path, Argument("A run folder, or a saved model.")],
    input: StreamInput,
    out: Annotated[Path, Option("Folder for what is completed and report.json.")],
    mask: Annotated[
        Path | None,
        Option(
            "Picture that is white where the input is occluded, or a folder of them by name; of a video also a video."
        ),
    ] = None,
    box: Annotated[
        list[str] | None, Option("x0,y0,x1,y1 in fractions of the picture; several if given several times.")
    ] = None,
    color_key: Annotated[
        str | None, Option("What has this colour is occluded: RRGGBB, or RRGGBB:TOLERANCE (0 to 255).")
    ] = None,
    gate: Annotated[bool, Option("What the run's gate finds important is occluded.")] = False,
    truth: Annotated[
        Path | None,
        Option("The unoccluded picture, folder or video, for PSNR and SSIM; may be the input itself."),
    ] = None,
    blend: Annotated[bool, Option("Bend the colours towards those at the region's edge.")] = True,
    as_video: AsVideo = False,
    size: RawSize = None,
    fps: Fps = None,
    stall_timeout: StallTimeout = 10.0,
    lossless: Annotated[bool, Option("Write videos as FFV1 (.mkv), to the bit, instead of H.264 (.mp4).")] = False,
    limit: FrameLimit = None,
    device: Device = None,
) -> None:
    """Fill in what is occluded in pictures or a video; all other pixels stay as they are."""
    from pipelines.errors import user_errors
    from pipelines.frames.live import faults_in_words, is_stream
    from pipelines.reconstruct.hidden_region import OcclusionOptions, parse_box
    from pipelines.reconstruct.reconstruct import ReconstructOptions
    from pipelines.reconstruct.reconstruct import reconstruct as fill_in
    from pipelines.reconstruct.reconstruct_video import VideoOptions, reconstruct_video

    with user_errors():
        occlusion = OcclusionOptions(mask, tuple(parse_box(each) for each in box or ()), color_key, gate)
    if is_stream(input, as_video=as_video):
        live = _live(input, size, fps, stall_timeout, limit)
        video = reconstruct_video(
            VideoOptions(run, live, out, occlusion, truth, blend, lossless, usable_device(device)), quiet=False
        )
        told = {"completed": f"{video.frames} frames in {video.file}, {video.frames / video.seconds:.3g} a second"}
        told |= {"latency": f"{video.latency} frames"} | faults_in_words(video.faults, stall_timeout)
        print_facts(told | {name: f"{value:.4g}" for name, value in video.means.items()})
        return
    options = ReconstructOptions(run, input, out, occlusion, truth, blend, limit, usable_device(device))
    found = fill_in(options, quiet=False)
    facts = {"completed": f"{len(found.pictures)} pictures in {out}"}
    if found.rejected:
        name, reason = found.rejected[0]
        facts["rejected"] = f"{len(found.rejected)}, first: {name}: {reason}; all are in {out / 'rejected.jsonl'}"
    print_facts(facts | {name: f"{value:.4g}" for name, value in found.means().items()})


@command()
def encode(
    run: Annotated[Path, Argument("A run folder, or a saved model.")],
    input: StreamInput,
    out: Annotated[Path, Option("Parquet file for the features: a row a picture, or a tubelet of a video.")],
    as_video: AsVideo = False,
    size: RawSize = None,
    fps: Fps = None,
    stall_timeout: StallTimeout = 10.0,
    limit: FrameLimit = None,
    device: Device = None,
) -> None:
    """Features of pictures, or of a video as it comes."""
    from pipelines.encode.encode import EncodeOptions, rejects
    from pipelines.encode.encode import encode as write
    from pipelines.frames.live import faults_in_words

    options = EncodeOptions(run, _live(input, size, fps, stall_timeout, limit), out, as_video, usable_device(device))
    found = write(options, quiet=False)
    facts = {"features": f"{found.rows} rows in {out}"}
    if found.frames:
        facts["frames"] = f"{found.frames}, {found.frames / found.seconds:.3g} a second"
        facts["latency"] = f"{found.latency} frames"
    if found.rejected:
        name, reason = found.rejected[0]
        facts["rejected"] = f"{len(found.rejected)}, first: {name}: {reason}; all are in {rejects(out)}"
    print_facts(facts | faults_in_words(found.faults, stall_timeout))


@command()
def compare(
    what: Annotated[str, Argument("A plan (FILE.yaml, docs/comparing.md), or the source of the images.")],
    out: Out,
    arms: Annotated[
        str | None,
        Option(
            "Arms, with commas: random, block, all-salient, image, mask, salient, inverse, shuffled, center "
            "[default: all but block]; with a plan, which of its arms."
        ),
    ] = None,
    seeds: Annotated[str | None, Option("How many, or which: 0,1,2 [default: 3, or the plan's].")] = None,
    saliency: Annotated[str | None, Option("Maps, for the arms that need them; without a plan.")] = None,
    labelled: Annotated[str | None, Option("Labelled source to judge by; WHAT if not given; without a plan.")] = None,
    test: Annotated[str | None, Option("Source to test on; a part of --labelled if not given; without a plan.")] = None,
    protocol: Annotated[list[str] | None, Option("As of evaluate; its default if not given; without a plan.")] = None,
    jobs: Annotated[int, Option("Runs at a time, each with its share of the cores, or a GPU.")] = 1,
    dry_run: Annotated[bool, Option("Check everything, say what would run, and stop.")] = False,
    workers: Annotated[int | None, Option("Processes of each run that decode images.", least=0)] = None,
    device: Device = None,
    options: Annotated[
        list[str] | None, Argument("After --, options of pretrain for all arms; without a plan.")
    ] = None,
) -> None:
    """Pretrain with several maskings at several seeds, judge all, and report what differs; exit code 2 if one fails."""
    from pipelines.compare.compare import compare as run_all
    from pipelines.compare.compare import dry_run as look
    from pipelines.compare.plan import asked_plan
    from pipelines.compare.report import print_comparison

    judged = {"source": labelled, "test": test, "protocols": protocol}
    plan = asked_plan(what, arms, seeds, saliency, judged, options or [])
    machine: dict[str, Any] = {"jobs": jobs, "device": device and usable_device(device), "workers": workers}
    if dry_run:
        print_facts({unit.name: state for unit, state in look(plan, out, **machine)}, title="Every run and its state")
        return
    found = run_all(plan, out, **machine)
    print_comparison(found)
    typer.echo(f"{out / 'report.md'} has the table, the plots and what they can't say")
    if found.failed:
        fail(f"{len(found.failed)} runs failed; the same command runs them again, and no others", 2)


@command()
def export(
    run: Annotated[Path, Argument("A run, a saved model, an MAE checkpoint (.pth), a ViTMAE or timm folder.")],
    to: Annotated[str, Option("mae: the reference's .pth; timm: a vit_*; transformers: a ViTMAE.")],
    out: Annotated[Path, Option("New folder for the weights, their configuration and a model card.")],
) -> None:
    """Write a model's weights as facebookresearch/mae, timm or transformers read them, equal to the bit."""
    from pipelines.export.export import export as write

    line = write(run, to, out)
    typer.echo(f"{out}: open it with\n{line}")


@command()
def demo(
    out: Annotated[Path | None, Option("Where results go [default: demo-out; of videos demo-video-out]")] = None,
    video: Annotated[bool, Option("Of moving scenes: pretraining, and what a block hides of them filled in.")] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """The whole line on the built-in scenes: maps, two pretrainings, evaluation, pictures; minutes on two cores."""
    if video:
        _demo_video(out or Path("demo-video-out"), seed, usable_device(device))
        return
    from pipelines.demo.demo import run_demo
    from pipelines.evaluate.printed import print_evaluation
    from pipelines.inspect.map_verdict import print_judgement

    out = out or Path("demo-out")
    summary = run_demo(out, seed=seed, device=usable_device(device))
    print_facts(summary.maps, title="Saliency maps")
    print_judgement(summary.judgement)
    print_evaluation(summary.evaluation)
    typer.echo(f"Look at contact-sheet.png, maps.png, accuracy.png and loss.png in {out}; the table is in table.md")


def _demo_video(out: Path, seed: int, device: str) -> None:
    from pipelines.demo.demo_video import print_recovery, run_video_demo

    print_recovery(run_video_demo(out, seed=seed, device=device))
    typer.echo(f"Look at standing-side.mp4, moving-side.mp4 and contact-sheet.png in {out}; the table is in table.md")


def _options(kind: type[T], given: Given, **settled: Any) -> T:
    """The options of a pipeline from what was given, and settled by the machine; a bad value is the user's error."""
    from pipelines.errors import user_errors

    with user_errors():
        values = given_values(kind, given) | settled
    if "device" in given:
        elsewhere = given.get("engine") == "ray"  # on other machines, which know best what they have
        values["device"] = given["device"] or "auto" if elsewhere else usable_device(given["device"])
    with user_errors():
        return kind(**values)


def _live(input: str, size: str | None, fps: float | None, stall_timeout: float, limit: int | None) -> LiveOptions:
    from pipelines.errors import user_errors
    from pipelines.frames.live import LiveOptions, parse_size

    with user_errors():
        return LiveOptions(input, None if size is None else parse_size(size), fps, stall_timeout, limit)


if __name__ == "__main__":
    app()
