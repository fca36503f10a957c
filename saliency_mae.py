"""Saliency maps of image–caption pairs, and masked autoencoders that use them: ``import saliency_mae as sm``.

What the command line does, as functions, on the same code:

- ``sm.load_clip``, ``sm.heatmap``, ``sm.overlay``: what speaks for a caption in an image
- ``sm.build_saliency``, ``sm.verify``, ``sm.diff``, ``sm.publish``, ``sm.open_maps``: the maps of a whole source
- ``sm.import_maps``, ``sm.export_maps``: maps that others made, and maps for others
- ``sm.mask``: the masks, for a training loop of one's own
- ``sm.pretrain``, ``sm.evaluate``, ``sm.compare``: training, and what it was good for
- ``sm.load``: a model with ``encode``, ``reconstruct`` and its ``transform``

A mistake is an ``sm.UserError`` of one line. ``docs/guide/python.md`` shows all of it. Importing this module loads
nothing else: a name is looked up in its room when it is first used.

``mae-cli`` starts here too (:func:`main`). The rooms are packages of common names, ``saliency``, ``mae``,
``pipelines`` and ``cli``; before one of them is imported, it is made sure that it is ours.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.api.heatmap import Heatmap, heatmap, load_clip, overlay
    from pipelines.api.jobs import (
        build_saliency,
        compare,
        diff,
        evaluate,
        export_maps,
        import_maps,
        pretrain,
        publish,
        verify,
    )
    from pipelines.api.maps import Maps, open_maps
    from pipelines.api.masks import Masks, mask
    from pipelines.api.model import Model, load
    from pipelines.api.results import BuiltMaps, Checks, Compared, Evaluation, ExportedMaps, Published, Run
    from pipelines.diff.difference import MapDifference
    from pipelines.errors import UserError
    from saliency import __version__

__all__ = [
    "BuiltMaps",
    "Checks",
    "Compared",
    "Evaluation",
    "ExportedMaps",
    "Heatmap",
    "MapDifference",
    "Maps",
    "Masks",
    "Model",
    "Published",
    "Run",
    "UserError",
    "__version__",
    "build_saliency",
    "compare",
    "diff",
    "evaluate",
    "export_maps",
    "heatmap",
    "import_maps",
    "load",
    "load_clip",
    "mask",
    "open_maps",
    "overlay",
    "pretrain",
    "publish",
    "verify",
]

_ROOMS = {
    "pipelines.api.heatmap": ("Heatmap", "heatmap", "load_clip", "overlay"),
    "pipelines.api.jobs": (
        *("build_saliency", "compare", "diff", "evaluate", "export_maps", "import_maps", "pretrain"),
        *("publish", "verify"),
    ),
    "pipelines.api.maps": ("Maps", "open_maps"),
    "pipelines.api.masks": ("Masks", "mask"),
    "pipelines.api.model": ("Model", "load"),
    "pipelines.api.results": ("BuiltMaps", "Checks", "Compared", "Evaluation", "ExportedMaps", "Published", "Run"),
    "pipelines.diff.difference": ("MapDifference",),
    "pipelines.errors": ("UserError",),
    "saliency": ("__version__",),
}
"""Where every name is, as the imports above say it to type checkers and editors."""

_OURS = ("saliency", "mae", "pipelines", "cli")


def main() -> None:
    """``mae-cli``, and ``python -m saliency_mae``."""
    if stranger := _stranger():
        print(f"error: {stranger}", file=sys.stderr)
        sys.exit(2)
    import cli

    getattr(cli, "main", cli.app)()


def __getattr__(name: str) -> Any:
    """A name of ``__all__``, from its room; ImportError if another package stands in the way."""
    room = next((room for room, names in _ROOMS.items() if name in names), None)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if stranger := _stranger():
        raise ImportError(stranger)
    found = globals()[name] = getattr(import_module(room), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _stranger() -> str | None:
    """One line on a package that is found under one of our names and is not ours; None if there is none."""
    home = Path(__file__).resolve().parent
    for name in _OURS:
        ours = home / name / "__init__.py" if (home / name).is_dir() else home / f"{name}.py"
        place = _place_of(name)
        if place is None:
            return f"saliency-mae is not whole: there is no {name!r} beside {__file__}; install it again"
        if place.resolve() != ours:
            owners = _owners(name)
        elif not (_is_overwritten(ours, home) and (owners := _owners(name))):
            continue
        return _introduced(name, place, owners)
    return None


def _place_of(name: str) -> Path | None:
    """The file of the module that an import of this name gives; None if there is none."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None):
        return Path(str(loaded.__file__))
    spec = find_spec(name)
    folders = () if spec is None else spec.submodule_search_locations or ()
    place = spec.origin if spec is not None and spec.origin else next(iter(folders), None)
    return None if place is None else Path(place)


def _is_overwritten(file: Path, home: Path) -> bool:
    """Whether a file in an environment's folder is not the one that was installed there."""
    import base64
    import hashlib

    for record in home.glob("saliency_mae-*.dist-info/RECORD"):  # none beside a checkout
        start = f"{file.relative_to(home).as_posix()},sha256="
        for line in record.read_text("utf-8").splitlines():
            if line.startswith(start):
                digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
                return line.removeprefix(start).partition(",")[0] != digest
    return False


def _owners(name: str) -> list[str]:
    """The other distributions that install a package of this name."""
    from importlib.metadata import packages_distributions

    found = packages_distributions().get(name, ())
    return [owner for owner in found if owner.lower().replace("_", "-") != "saliency-mae"]


def _introduced(name: str, place: Path, owners: list[str]) -> str:
    """Who the stranger is, where it lies and what to do, in one line."""
    found = f"the package {name!r} that Python finds is not saliency-mae's: it lies at {place}"
    if not owners:
        return f"{found}; rename it, or start Python where it is not on the path (docs/guide/python.md)"
    return (
        f"{found} and came with the distribution {owners[0]!r}; give saliency-mae an environment of its own, or run "
        f"pip uninstall {owners[0]} and then pip install --force-reinstall --no-deps saliency-mae "
        "(docs/guide/python.md)"
    )


if __name__ == "__main__":
    main()
