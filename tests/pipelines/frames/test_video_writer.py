"""Videos that are written: the same frames give the same bytes."""

from fractions import Fraction

import numpy as np

from pipelines.frames.video_writer import open_video


def test_the_same_frames_give_the_same_bytes(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 30, 40, 3), np.uint8)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
    files = [tmp_path / f"{number}.mp4" for number in range(6)]
    for file in files:
        with open_video(file, Fraction(10)) as video:
            for frame in frames:
                video.write(frame)
    assert len({file.read_bytes() for file in files}) == 1
