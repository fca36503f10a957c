"""Writes small videos whose frames tell their number, for the tests of clips, and cuts and joins them."""

from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition  # noqa: F401 (PyAV imports it late)

LEVELS = 7
"""Grey levels between two frames."""

B_FRAMES = {
    "codec": "libx264",
    "pixels": "yuv444p",
    "options": {"qp": "4", "g": "10", "bf": "2", "b-adapt": "0", "sc_threshold": "0"},
}
"""Key frames at 0, 10, 20 and two B-frames between others, near lossless: for :func:`write_video`."""
OPEN_GOPS = B_FRAMES | {"options": B_FRAMES["options"] | {"g": "8", "x264-params": "open-gop=1"}}
MPEG2 = {"codec": "mpeg2video", "pixels": "yuv420p", "options": {"b": "8000000", "g": "10", "bf": "2"}}
MPEG4 = {"codec": "mpeg4", "pixels": "yuv420p", "options": {"b": "8000000", "g": "10"}}


def grey(number):
    return 20 + LEVELS * number


def pictures(count, width=32, height=24):
    """Frame k is grey(k), but for its upper left quarter, which is black: to see turns."""
    frames = np.stack([np.full((height, width, 3), grey(k), np.uint8) for k in range(count)])
    frames[:, : height // 2, : width // 2] = 0
    return frames


def write_video(
    path,
    frames,
    *,
    codec="ffv1",
    pixels="yuv444p",
    rate=25,
    stamps=None,
    rotation=None,
    options=None,
    container=None,
    unit=Fraction(1, 1000),
    aspect=None,
):
    """Frames uint8 [T, H, W, 3 or 4] as a video; ``stamps`` are their times in units of ``unit`` seconds, ``aspect``
    is the shape of a pixel."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if stamps is not None:
            stream.codec_context.time_base = unit
        if rotation is not None:
            stream.set_display_rotation(rotation)
        file.start_encoding()
        for number, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format="rgba" if pixel.shape[-1] == 4 else "rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def copy_stream(source, target, *, since=None, shift=0.0, change=lambda packets: packets, options=None, container=None):
    """A video's packets as they are in another file, as ``ffmpeg -c copy`` does it.

    Those that are decoded before ``since`` seconds are left out, times are moved by ``shift`` seconds, and ``change``
    sees the list of packets before it is written.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}, format=container) as new:
        stream = old.streams.video[0]
        written = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        moved = round(shift / stream.time_base)
        for packet in change(packets):
            decoded = packet.pts if packet.dts is None else packet.dts
            if since is None or decoded * stream.time_base >= since - 1e-6:
                packet.pts, packet.stream = packet.pts + moved, written
                packet.dts = None if packet.dts is None else packet.dts + moved
                new.mux(packet)


def join_files(target, *sources):
    """Files one behind the other, as ``cat`` does it."""
    target.write_bytes(b"".join(source.read_bytes() for source in sources))


def numbers(images):
    """Which frames these are, by the lower right pixel."""
    return [round((int(np.asarray(image)[-1, -1, 0]) - 20) / LEVELS) for image in images]
