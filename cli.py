"""``mae-cli``: parses and validates, calls one pipeline, prints what it returns.

A user's mistake is one line and exit code 2. An interrupted run says how to go on and exits with 130. Heavy imports
stay inside the commands, so that ``--help`` is instant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipelines.terminal import (
    fail,
    guarded,
    print_comparison,
    print_evaluation,
    print_facts,
    print_judgement,
    print_recovery,
)

if TYPE_CHECKING:
    from pipelines.compare_plan import ComparePlan
    from pipelines.live import LiveOptions

app = typer.Typer(
    help="Saliency maps for image-caption pairs, and masked autoencoders that use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

T = TypeVar("T")

SOURCE_HELP = (
    "Where the images are: a folder (metadata.csv|jsonl|parquet, a captions file, or class folders), WebDataset tars "
    "(path, glob, {000..123}), a Parquet/JSONL/CSV/TSV table, shapes:N, or a Hub dataset id."
)
Source = Annotated[str, typer.Argument(help=SOURCE_HELP)]
Out = Annotated[Path, typer.Option(help="Where results go.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column with the images; found by convention if not given.")]
CaptionColumn = Annotated[str | None, typer.Option(help="Column with the captions; found by convention if not given.")]
Captions = Annotated[str, typer.Option(help="Of several captions of an image take the `first` or `all` (a pair each).")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first N samples.")]
Split = Annotated[str | None, typer.Option(help="Split of a Hub dataset, or of a folder that holds splits.")]
Seed = Annotated[int, typer.Option(min=0, help="All random numbers follow from it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the best there is if not given.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes or threads that decode images; half the cores if not given.")
]


@app.command()
def build_saliency(
    source: Source,
    out: Out,
    clip: Annotated[
        str | None,
        typer.Option(help="open_clip model, hf-hub:… or local-dir:… \\[default: ViT-B-16; for shapes the shipped one]"),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights tag or file of --clip \\[default: openai with ViT-B-16]")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How maps are made: gradcam, grad-eclip, legrad, clip-es, naclip; with pytorch-grad-cam also "
            "gradcam++, layercam, hirescam, xgradcam, eigengradcam, scorecam (docs/methods.md)."
        ),
    ] = "gradcam",
    grid: Annotated[
        int | None,
        typer.Option(help="Side of the stored maps in cells, 256 at most; what the model's patches give if not given."),
    ] = None,
    clip_size: Annotated[
        int | None,
        typer.Option(help="Pixels of the square the model sees, embeddings interpolated; its own if not given."),
    ] = None,
    tiles: Annotated[
        int, typer.Option(help="Look also at N × N overlapping windows: finer maps, 1 + N² forward passes an image.")
    ] = 1,
    precision: Annotated[str, typer.Option(help="Of the model's trunk: auto, fp32 or bf16.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model's trunk: pays off over many pairs on a GPU.")
    ] = False,
    fit: Annotated[
        str, typer.Option(help="`squash` the whole image into the model's square, or `crop` its centre.")
    ] = "squash",
    batch_size: Annotated[int, typer.Option(help="Pairs at a time.")] = 64,
    workers: Workers = None,
    shard_size: Annotated[
        int, typer.Option(help="Pairs a file; what a killed run loses is what it had not written.")
    ] = 4096,
    shard: Annotated[
        str | None, typer.Option(help="i/n: make part i of n, as a job array does; then `merge` them.")
    ] = None,
    engine: Annotated[str, typer.Option(help="`local`, or `ray`: the workers of a Ray cluster.")] = "local",
    ray_workers: Annotated[
        int | None,
        typer.Option(
            help="Workers of --engine ray; one a GPU, or one for every four cores of a machine, if not given."
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Print the time by stage and the bottleneck.")] = False,
    max_rejected: Annotated[float, typer.Option(help="Share of bad pairs above which the command fails.")] = 0.01,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    captions: Captions = "first",
    limit: Limit = None,
    split: Split = None,
    clips: Annotated[
        bool, typer.Option("--clips", help="A folder of frames is a clip, as to pretrain --frames: one map a clip.")
    ] = False,
    device: Device = None,
) -> None:
    """Run CLIP and Grad-CAM over image-caption pairs and write their saliency maps as Parquet."""
    from pipelines.build_job import BuildOptions
    from pipelines.build_saliency import build_saliency as build
    from pipelines.stages import Stages

    stages = Stages()
    given = locals() | {"shard": _part(shard)}
    manifest = build(_options(BuildOptions, given, workers=workers or _half_the_cores()), stages=stages)
    typer.echo(
        f"{manifest.taken} pairs: {manifest.written} maps in {out / 'data'}"
        + (f", {manifest.rejected} rejected in {out / 'rejected'}" if manifest.rejected else "")
        + (f"; when all parts are done: mae-cli merge {out}" if shard else "")
    )
    if report:
        print_facts(stages.table(), title="Where the time went")


@app.command()
def merge(
    maps: Annotated[Path, typer.Argument(help="The --out of all parts of a job array.")],
) -> None:
    """Check that the parts of a job array (build-saliency --shard i/n) are all there, and make them one."""
    from pipelines.merge import merge as join

    manifest = join(maps)
    typer.echo(f"{manifest.taken} pairs: {manifest.written} maps in {maps / 'data'}, {manifest.rejected} rejected")


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(help="A maps folder, a run folder or a source.")],
    source: Annotated[
        str | None, typer.Option(help="Where a maps folder's images are now; other images for a gate.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="PNG to draw samples into; more pages, the best and the worst lie beside it.")
    ] = None,
    gallery_size: Annotated[int, typer.Option(min=1, help="Pairs to draw, evenly spaced; 12 a page.")] = 12,
    limit: Annotated[int, typer.Option(min=1, help="Pairs to judge at most, evenly spaced.")] = 500,
    json: Annotated[Path | None, typer.Option(help="File that takes everything as numbers.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="pointing, energy, iou or auc: exit with 1 unless the maps beat the centre prior in it."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Of a run: what its gate finds important, on --source or its own images.")
    ] = False,
    device: Device = None,
) -> None:
    """Describe maps, a run or a source; judge maps beside a centre prior, a shuffled caption and a uniform map."""
    from pipelines.inspect_maps import inspect as look

    found = look(
        what,
        source=source,
        gallery=gallery,
        gallery_size=gallery_size,
        limit=limit,
        device=_device(device),
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


@app.command()
def verify(
    maps: Annotated[str, typer.Argument(help="A maps folder, or the Hub dataset id of a published table.")],
    source: Annotated[str | None, typer.Argument(help="The images the maps are to be used with.")] = None,
    sample: Annotated[
        int, typer.Option(help="Images whose stored bytes are hashed, at random; 0 for none, a large number for all.")
    ] = 1000,
    seed: Seed = 0,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    captions: Captions = "first",
    limit: Limit = None,
    split: Split = None,
) -> None:
    """Check that a maps folder is whole and belongs to its images; exit code 1 if a check fails."""
    from pipelines.errors import user_errors
    from pipelines.verify import VerifyOptions
    from pipelines.verify import verify as check

    with user_errors():
        options = VerifyOptions(maps, source, sample, seed, image_column, caption_column, captions, limit, split)  # type: ignore[arg-type]
    checks = check(options)
    print_facts({item.name: f"{'ok' if item.passed else 'FAILED':<8}{item.found}" for item in checks})
    failed = sum(not item.passed for item in checks)
    if failed:
        fail(f"{failed} of {len(checks)} checks failed", 1)
    typer.echo(f"all {len(checks)} checks passed")


@app.command()
def publish(
    maps: Annotated[Path, typer.Argument(help="A finished maps folder.")],
    name: Annotated[str, typer.Argument(help="user/name of the dataset on the Hub.")],
    dry_run: Annotated[
        Path | None, typer.Option(help="Write the dataset into this new folder, and upload nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the dataset private.")] = False,
    preview: Annotated[int, typer.Option(help="Pictures for the Hub's viewer, evenly spaced; 0 for none.")] = 1000,
    with_images: Annotated[
        bool,
        typer.Option("--with-images", help="Show the photos in the preview, which needs the right to publish them."),
    ] = False,
    source: Annotated[str | None, typer.Option(help="Where the images are now, for --with-images.")] = None,
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Of the maps, as the Hub spells it.")
    ] = "other",
    quality: Annotated[Path | None, typer.Option(help="What inspect --json wrote, for the card.")] = None,
) -> None:
    """Publish maps as a dataset on the Hub, with a card and pictures; URLs, captions and maps, no photos."""
    from pipelines.errors import user_errors
    from pipelines.publish import PublishOptions
    from pipelines.publish import publish as upload

    with user_errors():
        options = PublishOptions(maps, name, dry_run, private, preview, with_images, source, licence, quality)
    print_facts(upload(options))


@app.command()
def pretrain(
    source: Source,
    out: Out,
    saliency: Annotated[
        str | None, typer.Option(help="Maps of build-saliency, or the Hub dataset id of a published table.")
    ] = None,
    masking: Annotated[
        str | None,
        typer.Option(
            help="random, block, grid, color-green (-red, -blue, -purple), salient, a learned one: gate, "
            "attention-high, attention-hint, hard, mlo (needs labels), or a control: inverse, shuffled, center "
            "\\[default: salient with --saliency] (docs/masking.md)"
        ),
    ] = None,
    mask_ratio: Annotated[
        float | None, typer.Option(help="Share of patches hidden \\[default: 0.75; of video 0.9]")
    ] = None,
    salient_ratio: Annotated[
        float, typer.Option(help="Share hidden because it is salient; of what, --salient-of says.")
    ] = 0.25,
    salient_of: Annotated[
        str, typer.Option(help="The ratio counts patches of the `image`, the `mask` or the `salient` set.")
    ] = "image",
    salient_pick: Annotated[
        str, typer.Option(help="Take the `top` ones, or draw them `weighted` by saliency.")
    ] = "top",
    salient_mass: Annotated[float, typer.Option(help="Share of a map that the salient set holds.")] = 0.5,
    temperature: Annotated[
        float, typer.Option(help="Of the weighted pick: small is nearly top, large nearly uniform.")
    ] = 1.0,
    salient_schedule: Annotated[
        str | None, typer.Option(help="A:B moves the salient ratio from A to B over training.")
    ] = None,
    tubes: Annotated[bool, typer.Option(help="Video: masks by maps or a gate are the same in every time slot.")] = True,
    saliency_weight: Annotated[
        float, typer.Option(help="0 to 1: how much a hidden patch's error counts by its saliency, with any masks.")
    ] = 0.0,
    gate_ratio: Annotated[
        float, typer.Option(help="Share of the patches that the gate finds important which is hidden for it.")
    ] = 0.5,
    gate_sign: Annotated[str, typer.Option(help="`hide` the chosen important patches, or `keep` them.")] = "hide",
    gate_teacher: Annotated[
        str | None, typer.Option(help="Maps that the gate starts from, in the first fifth of the training.")
    ] = None,
    gate_positions: Annotated[
        bool, typer.Option("--gate-positions", help="The gate sees places too: the picture's frame is background.")
    ] = False,
    gate_contrast: Annotated[
        float, typer.Option(help="Weight of the contrast in what the gate learns by (docs/gate.md).")
    ] = 0.02,
    attention_shown: Annotated[
        float, typer.Option(help="Of attention-hint: the share of most attended patches of which some stay visible.")
    ] = 0.1,
    attention_momentum: Annotated[
        float, typer.Option(help="How much of the attention masks' teacher a step leaves at the start of training.")
    ] = 0.996,
    attention_momentum_end: Annotated[
        float, typer.Option(help="As much at its end; half a cosine between. Equal to the other one: constant.")
    ] = 1.0,
    hard_final: Annotated[
        float,
        typer.Option(help="Of hard: the share of the mask chosen by predicted error at the end, from 0 at the start."),
    ] = 0.5,
    mlo_masker: Annotated[
        str, typer.Option(help="Of mlo: the network that masks is the `gate`, or the paper's `mlp` (docs/mlo.md).")
    ] = "gate",
    mlo_path: Annotated[
        str,
        typer.Option(help="How a mask is differentiated: loss times score `weighted`, `relative` or straight-through."),
    ] = "weighted",
    mlo_hypergradient: Annotated[
        str, typer.Option(help="By `finite` differences, or `exact`: by derivatives of derivatives.")
    ] = "finite",
    mlo_unroll: Annotated[
        str, typer.Option(help="Steps of the autoencoder to one of the head, and of the head to one of the masker.")
    ] = "2,1",
    mlo_split: Annotated[
        float, typer.Option(help="Share of every class held out of SOURCE to judge the masks by.")
    ] = 0.2,
    mlo_head_rate: Annotated[float, typer.Option(help="Peak learning rate of the head.")] = 1e-3,
    mlo_masker_rate: Annotated[float, typer.Option(help="Peak learning rate of the masker.")] = 1e-3,
    mlo_exploration: Annotated[
        float, typer.Option(help="0: the highest scores are hidden; above: drawn, with odds ∝ score^(1/exploration).")
    ] = 0.0,
    mlo_pool: Annotated[str, typer.Option(help="The head's features: the class token `cls` or the `mean`.")] = "cls",
    on_missing: Annotated[
        str, typer.Option(help="An image without a map is an `error`, or masked at `random`.")
    ] = "error",
    model: Annotated[str, typer.Option(help="mini, tiny, small, base, large or huge.")] = "base",
    image_size: Annotated[str, typer.Option(help="Pixels: a side, or HEIGHTxWIDTH.")] = "224",
    patch_size: Annotated[int | None, typer.Option(min=1, help="Pixels; 16 if not given (huge: 14).")] = None,
    decoder_width: Annotated[int | None, typer.Option(help="Of the decoder; the model's own if not given.")] = None,
    decoder_depth: Annotated[
        int | None, typer.Option(help="Blocks of the decoder; the model's own number if not given.")
    ] = None,
    decode_ratio: Annotated[
        float,
        typer.Option(help="Share of the hidden patches that is decoded, drawn anew at every step (docs/speed.md)."),
    ] = 1.0,
    decoder_masking: Annotated[
        str, typer.Option(help="Which those are: `random`, or of video by a `running-cell` (docs/video.md).")
    ] = "random",
    frames: Annotated[
        int | None, typer.Option(min=1, help="SOURCE holds videos: frames of a clip, 16 as a rule (docs/video.md).")
    ] = None,
    frame_stride: Annotated[int, typer.Option(help="Frames of the video from one of a clip to the next.")] = 4,
    tubelet: Annotated[int, typer.Option(help="Frames of a video patch.")] = 2,
    positions: Annotated[
        str, typer.Option(help="Of video patches: `space-time`, or VideoMAE's `table`, to export to transformers.")
    ] = "space-time",
    inflate: Annotated[
        str | None, typer.Option(help="Start the video model from this run's image model, or a saved one's weights.")
    ] = None,
    resolution_schedule: Annotated[
        str | None,
        typer.Option(
            help="Smaller images first: 0:128,0.5:160,0.8:224 is the share of the epochs, and the size from there on; "
            "the last is --image-size."
        ),
    ] = None,
    norm_pix: Annotated[bool, typer.Option(help="Predict patches normalised by their own mean and deviation.")] = True,
    batch_size: Annotated[int, typer.Option(help="Images at a time, in all processes.")] = 256,
    accumulate: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = 100,
    blr: Annotated[float, typer.Option(help="Base learning rate: the peak is blr x effective batch / 256.")] = 1.5e-4,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.05,
    warmup_epochs: Annotated[float | None, typer.Option(help="A tenth of the epochs if not given.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the step: the first one takes minutes, the others less.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits from every such run, on a GPU too; slower there.")
    ] = False,
    shard_model: Annotated[
        bool,
        typer.Option(
            "--shard-model",
            help="Under torchrun: a part of weights and optimiser in each process (docs/distributed.md).",
        ),
    ] = False,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; one epoch if not given.")
    ] = None,
    keep: Annotated[int, typer.Option(help="Newest checkpoints kept, beside the best one.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="Log to tensorboard or wandb too (pip install 'saliency-mae\\[track]').")
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    augment_on: Annotated[
        str,
        typer.Option(
            help="Where decoded images are cropped and resized: by the `workers` or on the `device`; auto is the "
            "device if that is a GPU."
        ),
    ] = "auto",
    max_rejected: Annotated[float, typer.Option(help="Share of unreadable images above which the run stops.")] = 0.01,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    captions: Captions = "first",
    limit: Limit = None,
    split: Split = None,
    device: Device = None,
) -> None:
    """Pretrain a masked autoencoder, hiding a chosen share of salient patches."""
    from pipelines.multilevel_cost import told_cost
    from pipelines.pretrain import pretrain as train
    from pipelines.pretrain_options import PretrainOptions
    from pipelines.processes import agreed, one_world
    from pipelines.throughput import throughput

    given = locals()
    with one_world(device) as world:
        with agreed(world):
            given |= {"image_size": _sides(image_size), "salient_schedule": _schedule(salient_schedule)}
            given["track"] = tuple(track or ())
            options = _options(PretrainOptions, given, workers=_half_the_cores(world.local_size, workers))
        run = train(options, world=world)
        if world.is_main:
            metrics = run.metrics()
            loss = "".join(f", loss {line['loss']:.4f}" for line in metrics[-1:])
            typer.echo(f"{out}: step {run.config()['steps']}{loss}; pictures in {out / 'plots'}")
            if cost := told_cost(out):
                typer.echo(cost)
            if hint := throughput(metrics).hint():
                typer.echo(hint)


@app.command()
def prepare(
    source: Source,
    out: Out,
    size: Annotated[
        int, typer.Option(help="Pixels that the shorter side is reduced to; smaller images stay as they are.")
    ] = 256,
    format: Annotated[str, typer.Option(help="`parquet`, or `webdataset`: tars.")] = "parquet",
    quality: Annotated[int, typer.Option(help="Of the JPEGs, 1 to 100.")] = 90,
    shard_size: Annotated[int, typer.Option(help="Images a file.")] = 4096,
    workers: Workers = None,
    max_rejected: Annotated[float, typer.Option(help="Share of bad rows above which the command fails.")] = 0.01,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    captions: Annotated[str, typer.Option(help="Captions to keep of an image: `all`, or the `first` alone.")] = "all",
    limit: Limit = None,
    split: Split = None,
) -> None:
    """Write a source's images small, with all that is known of them, into Parquet or tars: for fast epochs."""
    from pipelines.errors import user_errors
    from pipelines.prepare import PrepareOptions, summary
    from pipelines.prepare import prepare as make

    given = locals() | {"workers": workers or _half_the_cores()}
    with user_errors():
        options = PrepareOptions(**{field.name: given[field.name] for field in fields(PrepareOptions)})
    typer.echo(summary(make(options), out))


@app.command()
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="A run folder or RUN/checkpoints/best, an MAE checkpoint (.pth), a ViTMAE or timm folder, or a timm "
            "model: timm:NAME, timm:NAME@FILE, timm:NAME@none."
        ),
    ],
    source: Source,
    test: Annotated[
        str | None, typer.Option(help="Source to test on; a part of SOURCE is held out if not given.")
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="knn, logistic (quick), linear (MAE's linear probe), finetune (MAE's fine-tuning), occlusion, segment "
            "and propagate (true masks); several if given several times \\[default: knn and logistic] "
            "(docs/protocols.md)"
        ),
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Further runs or timm models to judge on the same images.")
    ] = None,
    untrained: Annotated[bool, typer.Option(help="Judge the same encoder untrained as well.")] = True,
    pool: Annotated[
        str,
        typer.Option(
            help="Features are the class token `cls` or the `mean` of the patch tokens; finetune takes the mean."
        ),
    ] = "cls",
    neighbours: Annotated[int, typer.Option(help="k of k-NN.")] = 20,
    temperature: Annotated[float, typer.Option(help="Of the votes of k-NN.")] = 0.07,
    test_fraction: Annotated[float, typer.Option(help="Share of every class held out where there is no --test.")] = 0.2,
    label_fraction: Annotated[
        float, typer.Option(help="Share of the training images to learn from, the same number of every class.")
    ] = 1.0,
    seeds: Annotated[
        str, typer.Option(help="How many seeds, counted from --seed, or which: 0,1,2. Several give a mean ± interval.")
    ] = "1",
    linear_epochs: Annotated[int, typer.Option(help="Of linear.")] = 90,
    linear_blr: Annotated[
        list[float] | None,
        typer.Option(
            help="Base rate of linear; of several the best on held-out training images \\[default: 0.1 to 300]"
        ),
    ] = None,
    linear_batch_size: Annotated[
        int | None, typer.Option(help="Images a step of linear; 16384, or fewer for 32 steps an epoch, if not given.")
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Of finetune; 100, for large and huge 50, if not given.")
    ] = None,
    finetune_blr: Annotated[
        float | None, typer.Option(help="Base rate of finetune; 5e-4, for large and huge 1e-3, if not given.")
    ] = None,
    finetune_batch_size: Annotated[
        int | None, typer.Option(help="Images a step of finetune; 1024, or fewer for 32 steps an epoch, if not given.")
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Of finetune's rate from block to block; 0.65, for large and huge 0.75, if not given."),
    ] = None,
    drop_path: Annotated[
        float | None, typer.Option(help="Of finetune; 0.1, for large 0.2 and for huge 0.3, if not given.")
    ] = None,
    occluder: Annotated[
        list[str] | None,
        typer.Option(
            help="Of occlusion: random, block, object, salient, non-salient; several if given several times "
            "\\[default: all, the last two where there are masks or --occluder-maps]"
        ),
    ] = None,
    occlusion_shares: Annotated[
        str, typer.Option(help="Shares of the picture that are hidden, rising.")
    ] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    occluder_maps: Annotated[
        str | None,
        typer.Option(help="Maps that say what is salient, not those the model was trained with; else true masks do."),
    ] = None,
    occluder_grid: Annotated[
        int | None, typer.Option(help="Cells a side that are hidden; the model's patches, or 14, if not given.")
    ] = None,
    occluder_fill: Annotated[str, typer.Option(help="Hidden pixels become `grey` or `noise`.")] = "grey",
    occlusion_probe: Annotated[str, typer.Option(help="What learns from whole images: logistic or knn.")] = "logistic",
    recover_images: Annotated[
        int, typer.Option(help="Of occlusion: so many images are also filled in by the decoder, and compared.")
    ] = 256,
    dense_size: Annotated[
        int | None,
        typer.Option(help="Shorter side of pictures in segment and propagate; the model's own size if not given."),
    ] = None,
    segment_classes: Annotated[
        bool, typer.Option(help="Segment by class where the source has labels, not object from background.")
    ] = True,
    context_frames: Annotated[int, typer.Option(help="Of propagate: frames before, beside the first.")] = 7,
    radius: Annotated[int, typer.Option(help="Of propagate: rows and columns that a patch looks away.")] = 12,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write; evaluation.json in the run folder if not given.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(help="PNG for the encoder's confusion matrices.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything again, also what is finished beside --out.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    workers: Workers = None,
    seed: Seed = 0,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    captions: Captions = "first",
    limit: Limit = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Take the first N samples of --test.")] = None,
    split: Split = None,
    device: Device = None,
) -> None:
    """Judge an encoder by probes, fine-tuning, occlusion, masks, beside itself untrained; goes on where it stopped."""
    from pipelines.evaluate import QUICK, EvaluateOptions, remarks
    from pipelines.evaluate import evaluate as judge

    given = locals() | {"protocols": tuple(protocol or QUICK), "beside": tuple(beside or ())}
    given |= {"linear_blr": tuple(linear_blr or ()), "occluder": tuple(occluder or ())}
    result = judge(_options(EvaluateOptions, given, workers=_half_the_cores() if workers is None else workers))
    print_evaluation(result)
    for line in remarks(result):
        typer.echo(line)


StreamInput = Annotated[
    str,
    typer.Argument(help="A picture, a folder of pictures, a video file or URL, or - for raw RGB24 frames on stdin."),
]
AsVideo = Annotated[bool, typer.Option("--as-video", help="The folder's pictures are the frames of one video.")]
RawSize = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of raw frames on stdin.")]
Fps = Annotated[
    float | None, typer.Option(help="Frames a second to take of a video \\[default: its own; 25 where it has none]")
]
StallTimeout = Annotated[float, typer.Option(help="Seconds without a frame after which a stream is taken to be over.")]


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="A run folder, or a saved model.")],
    input: StreamInput,
    out: Annotated[Path, typer.Option(help="Folder for what is completed and report.json.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Picture that is white where the input is occluded, or a folder of them by name; of a video also a "
            "video."
        ),
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="x0,y0,x1,y1 in fractions of the picture; several if given several times.")
    ] = None,
    color_key: Annotated[
        str | None, typer.Option(help="What has this colour is occluded: RRGGBB, or RRGGBB:TOLERANCE (0 to 255).")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="What the run's gate finds important is occluded.")] = False,
    truth: Annotated[
        Path | None,
        typer.Option(help="The unoccluded picture, folder or video, for PSNR and SSIM; may be the input itself."),
    ] = None,
    blend: Annotated[bool, typer.Option(help="Bend the colours towards those at the region's edge.")] = True,
    as_video: AsVideo = False,
    size: RawSize = None,
    fps: Fps = None,
    stall_timeout: StallTimeout = 10.0,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Write videos as FFV1 (.mkv), to the bit, instead of H.264 (.mp4).")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N pictures, or frames.")] = None,
    device: Device = None,
) -> None:
    """Fill in what is occluded in pictures or a video; all other pixels stay as they are."""
    from pipelines.errors import user_errors
    from pipelines.live import is_stream
    from pipelines.occlusions import OcclusionOptions, parse_box
    from pipelines.reconstruct import ReconstructOptions
    from pipelines.reconstruct import reconstruct as fill_in
    from pipelines.reconstruct_video import VideoOptions, reconstruct_video

    with user_errors():
        occlusion = OcclusionOptions(mask, tuple(parse_box(each) for each in box or ()), color_key, gate)
    if is_stream(input, as_video=as_video):
        live = _live(input, size, fps, stall_timeout, limit)
        video = reconstruct_video(
            VideoOptions(run, live, out, occlusion, truth, blend, lossless, _device(device)), quiet=False
        )
        told = {"completed": f"{video.frames} frames in {video.file}, {video.frames / video.seconds:.3g} a second"}
        told |= {"latency": f"{video.latency} frames"} | _faults(video.faults, stall_timeout)
        print_facts(told | {name: f"{value:.4g}" for name, value in video.means.items()})
        return
    options = ReconstructOptions(run, input, out, occlusion, truth, blend, limit, _device(device))
    found = fill_in(options, quiet=False)
    facts = {"completed": f"{len(found.pictures)} pictures in {out}"}
    if found.rejected:
        name, reason = found.rejected[0]
        facts["rejected"] = f"{len(found.rejected)}, first: {name}: {reason}; all are in {out / 'rejected.jsonl'}"
    print_facts(facts | {name: f"{value:.4g}" for name, value in found.means().items()})


@app.command()
def encode(
    run: Annotated[Path, typer.Argument(help="A run folder, or a saved model.")],
    input: StreamInput,
    out: Annotated[Path, typer.Option(help="Parquet file for the features: a row a picture, or a tubelet of a video.")],
    as_video: AsVideo = False,
    size: RawSize = None,
    fps: Fps = None,
    stall_timeout: StallTimeout = 10.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N pictures, or frames.")] = None,
    device: Device = None,
) -> None:
    """Features of pictures, or of a video as it comes."""
    from pipelines.encode import EncodeOptions, rejects
    from pipelines.encode import encode as write

    options = EncodeOptions(run, _live(input, size, fps, stall_timeout, limit), out, as_video, _device(device))
    found = write(options, quiet=False)
    facts = {"features": f"{found.rows} rows in {out}"}
    if found.frames:
        facts["frames"] = f"{found.frames}, {found.frames / found.seconds:.3g} a second"
        facts["latency"] = f"{found.latency} frames"
    if found.rejected:
        name, reason = found.rejected[0]
        facts["rejected"] = f"{len(found.rejected)}, first: {name}: {reason}; all are in {rejects(out)}"
    print_facts(facts | _faults(found.faults, stall_timeout))


@app.command()
def compare(
    what: Annotated[str, typer.Argument(help="A plan (FILE.yaml, docs/comparing.md), or the source of the images.")],
    out: Out,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Arms, with commas: random, block, all-salient, image, mask, salient, inverse, shuffled, center "
            "\\[default: all but block]; with a plan, which of its arms."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many, or which: 0,1,2 \\[default: 3, or the plan's].")] = None,
    saliency: Annotated[str | None, typer.Option(help="Maps, for the arms that need them; without a plan.")] = None,
    labelled: Annotated[
        str | None, typer.Option(help="Labelled source to judge by; WHAT if not given; without a plan.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Source to test on; a part of --labelled if not given; without a plan.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="As of evaluate; its default if not given; without a plan.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, each with its share of the cores, or a GPU.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and stop.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes of each run that decode images.")] = None,
    device: Device = None,
    options: Annotated[
        list[str] | None, typer.Argument(help="After --, options of pretrain for all arms; without a plan.")
    ] = None,
) -> None:
    """Pretrain with several maskings at several seeds, judge all, and report what differs; exit code 2 if one fails."""
    from pipelines.compare import compare as run_all
    from pipelines.compare import dry_run as look

    judged = {"source": labelled, "test": test, "protocols": protocol}
    plan = _compare_plan(what, arms, seeds, saliency, judged, options or [])
    machine: dict[str, Any] = {"jobs": jobs, "device": device and _device(device), "workers": workers}
    if dry_run:
        print_facts({unit.name: state for unit, state in look(plan, out, **machine)}, title="Every run and its state")
        return
    found = run_all(plan, out, **machine)
    print_comparison(found)
    typer.echo(f"{out / 'report.md'} has the table, the plots and what they can't say")
    if found.failed:
        fail(f"{len(found.failed)} runs failed; the same command runs them again, and no others", 2)


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="A run, a saved model, an MAE checkpoint (.pth), a ViTMAE or timm folder.")
    ],
    to: Annotated[str, typer.Option(help="mae: the reference's .pth; timm: a vit_*; transformers: a ViTMAE.")],
    out: Annotated[Path, typer.Option(help="New folder for the weights, their configuration and a model card.")],
) -> None:
    """Write a model's weights as facebookresearch/mae, timm or transformers read them, equal to the bit."""
    from pipelines.export import export as write

    line = write(run, to, out)
    typer.echo(f"{out}: open it with\n{line}")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where results go \\[default: demo-out; of videos demo-video-out]")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Of moving scenes: pretraining, and what a block hides of them filled in.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """The whole line on the built-in scenes: maps, two pretrainings, evaluation, pictures; minutes on two cores."""
    if video:
        _demo_video(out or Path("demo-video-out"), seed, device)
        return
    from pipelines.demo import run_demo

    out = out or Path("demo-out")
    summary = run_demo(out, seed=seed, device=_device(device))
    print_facts(summary.maps, title="Saliency maps")
    print_judgement(summary.judgement)
    print_evaluation(summary.evaluation)
    typer.echo(f"Look at contact-sheet.png, maps.png, accuracy.png and loss.png in {out}; the table is in table.md")


def _demo_video(out: Path, seed: int, device: str | None) -> None:
    from pipelines.demo_video import run_video_demo

    print_recovery(run_video_demo(out, seed=seed, device=_device(device)))
    typer.echo(f"Look at standing-side.mp4, moving-side.mp4 and contact-sheet.png in {out}; the table is in table.md")


def _compare_plan(
    what: str,
    arms: str | None,
    seeds: str | None,
    saliency: str | None,
    judged: dict[str, Any],
    options: list[str],
) -> ComparePlan:
    """The plan in a file, or of the flags that stand in for one."""
    from pipelines.compare_plan import plan_from_flags, read_plan
    from pipelines.errors import UserError

    if not what.endswith((".yaml", ".yml")):
        return plan_from_flags(what, arms, seeds, saliency, judged, options)
    if saliency is not None or any(judged.values()) or options:
        raise UserError(f"{what} is a plan: --saliency, --labelled, --test, --protocol and options after -- go into it")
    return read_plan(Path(what)).narrowed(arms, seeds)


def _options(kind: type[T], given: dict[str, Any], *, workers: int) -> T:
    """The options of a pipeline from a command's arguments; a bad value is the user's error."""
    from pipelines.errors import user_errors

    elsewhere = given.get("engine") == "ray"  # on other machines, which know best what they have
    device = given["device"] or "auto" if elsewhere else _device(given["device"])
    given = given | {"workers": workers, "device": device}
    with user_errors():
        return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _device(name: str | None) -> str:
    """The device asked for, or the best there is; UserError if it is not there."""
    import torch

    from pipelines.errors import UserError

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} can't be used here: {str(error).splitlines()[0]}") from error
    return name


def _half_the_cores(processes: int = 1, wanted: int | None = None) -> int:
    """Workers of each of several processes on a machine, if they are not given."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, min(16, cores // 2 // processes))


def _live(input: str, size: str | None, fps: float | None, stall_timeout: float, limit: int | None) -> LiveOptions:
    from pipelines.errors import user_errors
    from pipelines.live import LiveOptions, parse_size

    with user_errors():
        return LiveOptions(input, None if size is None else parse_size(size), fps, stall_timeout, limit)


def _faults(faults: dict[str, int | bool], stall_timeout: float) -> dict[str, str]:
    """What was wrong with a stream, in words."""
    words = {
        "stalled": f"the stream sent nothing for {stall_timeout:g} seconds; what had come is done",
        "truncated": "the stream ended within a frame, or before the end that it says it has",
        "corrupt": "{} frames could not be decoded",
        "repeated": "{} times the last frame stands in for one that is missing",
        "skipped": "{} frames came faster than they were taken",
        "resized": "{} frames had another size than the first",
        "jumps": "{} times the clock of the stream jumped",
        "mask_ended": "the masks ended at frame {}; from there on the last one holds",
        "truth_ended": "the true frames ended at frame {}; from there on the last one holds",
    }
    return {name.replace("_", " "): words[name].format(value) for name, value in faults.items()}


def _sides(text: str) -> tuple[int, ...]:
    from pipelines.errors import UserError

    try:
        return tuple(int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise UserError(
            f"--image-size {text!r} is not a side or HEIGHTxWIDTH in pixels, such as 224 or 224x448"
        ) from error


def _part(text: str | None) -> tuple[int, int] | None:
    from pipelines.errors import user_errors
    from pipelines.plan import parse_part

    with user_errors():
        return None if text is None else parse_part(text)


def _schedule(text: str | None) -> tuple[float, float] | None:
    from pipelines.errors import UserError

    if text is None:
        return None
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(f"--salient-schedule {text!r} is not A:B, such as 0:0.5") from error
    return start, end


def _wrap_commands() -> None:
    for command in app.registered_commands:
        function: Callable[..., None] = command.callback  # type: ignore[assignment]
        command.callback = guarded(function)


_wrap_commands()

if __name__ == "__main__":
    app()
