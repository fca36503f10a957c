"""The web application: a page, and what it asks for. Nothing is written, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import binascii
import hmac
import io
import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS, SALIENT_RATIO, STRATEGIES
from pipelines.commandline.option import LARGEST
from pipelines.errors import UserError
from pipelines.explore.images import OWN, Images
from pipelines.explore.opened import Opened, as_numbers, short
from pipelines.explore.options import LOOPBACK
from pipelines.explore.pairs import FLAGS
from pipelines.explore.requests import GATE, OF_ONE_IMAGE, TYPED, Asked, Subject, asked_by
from pipelines.outputs import kind_of
from pipelines.run_folder import RunFolder
from pipelines.sources.images import BadImage

if TYPE_CHECKING:
    from pipelines.explore.looks import Looks

PAGE = Path(__file__).parent / "page"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_PAGE_OF_PAIRS = 24
_LARGEST_BODY = 32 << 20
_SIDES = (16, 1024)
_CONTENT = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"
_REPORT = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A report comes from a folder, which may be anyone's: no script of it runs."""


def app_of(opened: Opened, *, password: str | None = None) -> Starlette:
    """The application. With ``password`` every request has to bring it.

    On a loopback address it answers to the names of this machine alone, so that no page from elsewhere can reach it
    under a name of its own.
    """
    view = Views(opened)
    routes = [
        Route("/", view.page),
        Route("/page/{name}", view.part),
        Route("/api/about", _told(view.about)),
        Route("/api/pairs", _told(view.pairs)),
        Route("/api/pair", _told(view.pair)),
        Route("/api/mask", _told(view.mask)),
        Route("/api/caption", _told(view.caption)),
        Route("/api/bring", _read(view.bring), methods=["POST"]),
        Route("/picture/{kind}", _told(view.picture)),
        Route("/recovered", _read(view.recovered), methods=["POST"]),
        Route("/report", _told(view.report)),
    ]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=[*(LOOPBACK if opened.options.host in LOOPBACK else ("*",))])
    ]
    if password is not None:
        guards.append(Middleware(Password, password=password))
    return Starlette(routes=routes, middleware=guards)


class Password:
    """Asks for a password by HTTP's basic authentication; the user's name is not looked at."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self._app, self._password = app, password.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or go on."""
        if scope["type"] == "http" and not self._knows(dict(scope["headers"]).get(b"authorization", b"")):
            head = {"WWW-Authenticate": 'Basic realm="saliency-mae", charset="UTF-8"'}
            await PlainTextResponse("a password is needed", 401, head)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, header: bytes) -> bool:
        kind, _, given = header.partition(b" ")
        try:
            password = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return kind.lower() == b"basic" and hmac.compare_digest(password, self._password)


class Views:
    """What the page asks for, each a function of the request's words."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.images = opened, Images(opened)
        # a Space is shown in a frame of the Hub's page
        self._policy = _CONTENT + ("; frame-ancestors 'self'" if opened.options.host in LOOPBACK else "")

        self._lock = Lock()
        self._looks: Looks | None = None

    @property
    def looks(self) -> Looks:
        """What makes maps, masks and filled-in pictures; it loads torch, which a first picture need not wait for."""
        from pipelines.explore.looks import Looks

        with self._lock:  # the page asks for several at once
            self._looks = self._looks or Looks(self.opened, self.images)
            return self._looks

    def page(self, request: Request) -> Response:
        """The page itself."""
        return HTMLResponse((PAGE / "index.html").read_text(), headers={"Content-Security-Policy": self._policy})

    def part(self, request: Request) -> Response:
        """A file that the page is made of."""
        name = request.path_params["name"]
        if name not in {path.name for path in PAGE.iterdir()}:
            return PlainTextResponse("there is no such file", 404)
        return Response((PAGE / name).read_text(), media_type=_KINDS.get(Path(name).suffix, "text/plain"))

    def about(self, request: Request) -> Response:
        """What there is, for the page to build its controls of."""
        pairs, clip = self.opened.pairs, self.opened.clip_name
        gates = self.opened.gates
        led = [name for name in OF_ONE_IMAGE if "maps" in STRATEGIES[name].needs]
        ranked = [name for name in OF_ONE_IMAGE if STRATEGIES[name].ranked]
        return _json(
            {
                "places": [short(place) for place in self.opened.options.what],
                "pairs": len(pairs),
                "orders": pairs.orders,
                "flags": FLAGS if self.opened.tables else (),
                "maps": list(self.opened.tables),
                "models": list(self.opened.models),
                "reports": list(self.opened.reports),
                "images": self.opened.source is not None,
                "clip": None if clip is None else Path(clip[0]).name,
                "typed": TYPED,
                "gates": gates,
                "masks": {name: asked_by(masking) for name, masking in self.opened.masking.items()},
                "undrawn": {
                    name: masking["strategy"]
                    for name, masking in self.opened.masking.items()
                    if masking["strategy"] not in (*OF_ONE_IMAGE, GATE)
                },
                "strategies": (*OF_ONE_IMAGE, *((GATE,) if gates else ())),
                "led": led,
                "ranked": ranked,
                "readings": SALIENT_OF,
                "picks": SALIENT_PICKS,
            }
        )

    def pairs(self, request: Request) -> Response:
        """A page of the pairs that were searched for."""
        words = request.query_params
        found = self.opened.pairs.find(
            words.get("text", ""),
            order=words.get("order", "table"),
            rising=words.get("rising") == "1",
            flag=words.get("flag", ""),
            ratio=_number(words, "salient_ratio", SALIENT_RATIO),
        )
        start = max(0, int(_number(words, "start", 0)))
        scores = self.opened.pairs.table.clip_scores if self.opened.pairs.table is not None else None
        rows = [
            {
                "row": str(number),
                "key": self.opened.pairs.key(number),
                "caption": self.opened.pairs.caption(number),
                "score": None if scores is None else float(scores[number]),
            }
            for number in found[start : start + _PAGE_OF_PAIRS].tolist()
        ]
        return _json({"found": len(found), "start": start, "size": _PAGE_OF_PAIRS, "rows": rows})

    def pair(self, request: Request) -> Response:
        """What is known of a pair."""
        row = request.query_params.get("row", "")
        if row.startswith(OWN):
            known = {"row": row, "key": "your image", "caption": "", "facts": {}, "mask": False}
            return _json(known | {"maps": list(self.opened.gates)})
        number = self.images.number(row)
        pairs, facts = self.opened.pairs, dict[str, Any]()
        if pairs.table is not None:
            score = float(pairs.table.clip_scores[number])
            facts |= {} if math.isnan(score) else {"CLIP score": f"{score:.3f}"}
            facts["peak of the map"] = f"{float(pairs.table.strengths[number]):.3g}"
            facts["flags"] = ", ".join(pairs.flags(number)) or "none"
        with_map = [name for name in self.opened.tables if self.opened.row_of(number, name) is not None]
        with_map += self.opened.gates if self.opened.source is not None else ()
        facts["pair"] = f"{number + 1:,} of {len(pairs):,}"
        known = {"row": row, "key": pairs.key(number), "caption": pairs.caption(number), "facts": facts}
        mask = self.opened.source is not None and self.opened.source.has_masks
        return _json(known | {"maps": with_map, "mask": mask})

    def mask(self, request: Request) -> Response:
        """Which patches are hidden, row by row: 0 visible, 1 hidden by chance, 2 hidden for their saliency.

        Of a gate 2 is hidden and important, 1 hidden and not important, 3 visible and important.
        """
        drawn = self.looks.draw(_subject(request), _asked(request), request.query_params.get("model", ""))
        rows, columns = drawn.hidden.shape
        cells = "".join(map(str, np.where(drawn.hidden, 1 + drawn.chosen, 3 * drawn.chosen).flat))
        counts = {"hidden": int(drawn.hidden.sum()), "forced": int((drawn.hidden & drawn.chosen).sum())}
        counts |= {"chosen": int(drawn.chosen.sum())}
        return _json({"rows": rows, "columns": columns, "cells": cells, "mass": drawn.mass, **counts})

    def caption(self, request: Request) -> Response:
        """The map of a caption that was typed: its score and peak; its picture is that of the map ``TYPED``."""
        subject = _subject(request)
        heat = self.looks.heat(Subject(subject.row, TYPED, subject.caption))
        assert heat is not None
        return _json({"caption": heat.caption, "score": heat.score, "strength": heat.strength})

    def picture(self, request: Request) -> Response:
        """A picture of a pair: image, map, true-mask, view or filled."""
        kind, words = request.path_params["kind"], request.query_params
        subject, model = _subject(request), words.get("model", "")
        side = int(min(max(_number(words, "side", 448), _SIDES[0]), _SIDES[1]))
        makers: dict[str, Callable[[], Image.Image | None]] = {
            "image": lambda: self.images.open(subject.row, side=side),
            "map": lambda: self._map(subject, side),
            "true-mask": lambda: self.images.true_mask(subject.row, side),
            "view": lambda: self.looks.seen(subject.row, model, side),
            "filled": lambda: self.looks.filled(subject, _asked(request), model),
        }
        if kind not in makers:
            raise UserError(f"there is no picture {kind!r}")
        picture = makers[kind]()
        if picture is None:
            raise UserError("this pair has none")
        return _png(picture)

    def _map(self, subject: Subject, side: int) -> Image.Image | None:
        if subject.map == TYPED or subject.map in self.opened.gates:
            return self.looks.map_picture(subject, side)
        first = next(iter(self.opened.tables), None)
        return None if first is None else self.images.map_picture(subject.row, subject.map or first, side)

    def bring(self, request: Request, body: bytes) -> Response:
        """Take an image that somebody brought."""
        return _json({"row": self.images.bring(body)})

    def recovered(self, request: Request, body: bytes) -> Response:
        """The image with what was painted over filled in."""
        words = request.query_params
        side = int(min(max(_number(words, "side", 448), _SIDES[0]), _SIDES[1]))
        return _png(self.looks.recovered(words.get("row", ""), words.get("model", ""), body, side))

    def report(self, request: Request) -> Response:
        """The report of a run as it stands now, or of a comparison as it was written."""
        folder = self.opened.reports.get(request.query_params.get("name", ""))
        if folder is None:
            raise UserError("there is no report of this name")
        from pipelines.compare.report import PAGE as COMPARISON
        from pipelines.report.run_report import report_html

        policy = {"Content-Security-Policy": _REPORT}
        if kind_of(folder) == "run":
            return HTMLResponse(report_html(RunFolder(folder)), headers=policy)
        if not (folder / COMPARISON).is_file():
            raise UserError("this comparison has no report.html: run compare again, which only writes the report")
        return HTMLResponse((folder / COMPARISON).read_text(), headers=policy)


def _told(make: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """The same, with a user's mistake as an answer of one line instead of a failure. Runs in a thread of its own."""

    def answer(request: Request) -> Response:
        try:
            return make(request)
        except (UserError, BadImage, OSError) as error:
            return JSONResponse({"error": str(UserError(error))}, 400)

    return answer


def _read(make: Callable[[Request, bytes], Response]) -> Any:
    """The same for what is sent along."""

    async def answer(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                return JSONResponse({"error": f"this is larger than {_LARGEST_BODY >> 20} MB"}, 413)
        return await run_in_threadpool(_told(lambda asked: make(asked, body)), request)

    return answer


def _subject(request: Request) -> Subject:
    words = request.query_params
    return Subject(words.get("row", ""), words.get("map", ""), words.get("caption", ""))


def _asked(request: Request) -> Asked:
    """The mask that the request's words ask for. UserError."""
    words, found = request.query_params, dict[str, Any]()
    for each in fields(Asked):
        if each.name in words:
            text = words[each.name]
            found[each.name] = text if isinstance(each.default, str) else _number(words, each.name, 0)
            if isinstance(each.default, int):
                found[each.name] = int(found[each.name])
    seed = found.get("seed", 0)
    if not 0 <= seed <= LARGEST:
        raise UserError(f"seed is {seed}; it goes from 0 to {LARGEST}")
    return Asked(**found)


def _number(words: Any, name: str, default: float) -> float:
    try:
        value = float(words.get(name, default))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} is {words.get(name)!r}, which is no number")
    return value


def _json(values: Any) -> Response:
    return Response(json.dumps(as_numbers(values), ensure_ascii=False), media_type="application/json")


def _png(picture: Image.Image) -> Response:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png", headers={"Cache-Control": "private, max-age=60"})
