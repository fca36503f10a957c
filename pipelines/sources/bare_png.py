"""A PNG without what it says beside its pixels, for decoders that refuse an image over a comment.

Pillow gives up on a PNG whose colour profile or text is damaged or unpacks to more than a megabyte, though neither
changes a pixel that is read here.
"""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"tRNS", b"eXIf")
"""Ancillary chunks that do change what is seen: transparency and orientation."""


def bare_png(data: bytes) -> bytes | None:
    """The PNG in ``data`` with its critical chunks, transparency and EXIF alone; None if it is no PNG or has no other.

    A critical chunk stays as it is, damage included; of the others the damaged ones go.
    """
    if not data.startswith(_SIGNATURE):
        return None
    at, pieces, dropped = len(_SIGNATURE), [_SIGNATURE], False
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at : at + 12 + length]
        is_critical = kind.isalpha() and kind[:1].isupper()
        if is_critical or (kind in _KEPT and _is_whole(chunk, length)):
            pieces.append(chunk)
        else:
            dropped = True
        at += 12 + length
    return b"".join(pieces) if dropped else None


def _is_whole(chunk: bytes, length: int) -> bool:
    return len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
