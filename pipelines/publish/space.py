"""The app of ``explore`` as a Space of the Hub, which shows a published table to everyone who can see the Space.

A Space is a container that the Hub builds. It holds this package as it is installed here, so it shows the table as
this version does, and installs what the extra ``explore`` needs.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import saliency
from saliency.files import write_text_atomically
from saliency.table.card import TAGS

PORT = 7860
_HOME = Path(saliency.__file__).resolve().parents[1]
_PACKAGES, _MODULES = ("saliency", "mae", "pipelines"), ("cli.py", "saliency_mae.py")
_NOT_OURS = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")

_CARD = """---
title: {title}
sdk: docker
app_port: {port}
license: apache-2.0
datasets:
- {dataset}
tags:
{tags}
---

# {title}

Saliency maps of [{dataset}](https://huggingface.co/datasets/{dataset}), to search, to sort and to mask. The code is
that of saliency-mae {version}, and the licence above is the code's; that of the maps is on their own card.

If the dataset is private, give the Space a secret `HF_TOKEN` that may read it.
"""
_DOCKERFILE = """FROM python:3.11-slim
RUN useradd --create-home --uid 1000 mae
USER mae
ENV PATH=/home/mae/.local/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /home/mae/app
COPY --chown=mae requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=mae . .
CMD ["python", "-m", "saliency_mae", "explore", "{dataset}", "--host", "0.0.0.0", "--port", "{port}", "--public"]
"""


def write_space(folder: Path, dataset: str) -> None:
    """Write the Space of a published table, ``dataset`` on the Hub, into a folder that is new or empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES:
        shutil.copytree(_HOME / package, folder / package, ignore=_NOT_OURS)
    for module in _MODULES:
        shutil.copyfile(_HOME / module, folder / module)
    tags = "\n".join(f"- {tag}" for tag in TAGS)
    title, version = f"Saliency maps of {dataset.partition('/')[2]}", saliency.__version__
    card = _CARD.format(title=title, port=PORT, dataset=dataset, tags=tags, version=version)
    write_text_atomically(folder / "README.md", card)
    write_text_atomically(folder / "Dockerfile", _DOCKERFILE.format(dataset=dataset, port=PORT))
    write_text_atomically(folder / "requirements.txt", "\n".join(requirements()) + "\n")
    if licence := metadata.distribution("saliency-mae").read_text("licenses/LICENSE"):
        write_text_atomically(folder / "LICENSE", licence)


def requirements() -> list[str]:
    """What this package and its extra ``explore`` need, as pip reads it."""
    found = []
    for line in metadata.requires("saliency-mae") or []:
        need, _, condition = line.partition(";")
        if "extra" not in condition:
            found.append(line)
        elif condition.strip() in ('extra == "explore"', "extra == 'explore'"):
            found.append(need.strip())
    return found
