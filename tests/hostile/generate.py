"""Write the hostile part: `python -m hostile.generate FOLDER --seed 0`, from inside `tests/`.

Each file has a recipe and its own random numbers, drawn from the seed and its name, so that a few
files alone are byte for byte the ones of the whole part. Names begin with what was done. The files
of the group `ordinary` are sound and merely unusual: every one of them shows a face.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from random import Random

from hostile import edit, material
from hostile.material import clip, faststart, picture, sound

Recipe = Callable[[Path, Random], None]
Change = Callable[[bytes, Random], bytes]

OUTSIDE = "outside.mp4"  # beside the part, and no business of it
# In the part, but not in its metadata.json.
UNLISTED, UNLISTED_PICTURE = "unlisted.mp4", "unlisted_001.jpg"
_PORT = 9  # "discard"
_STBL = "moov/trak/mdia/minf/stbl"
_HUGE = 0xFFFFFFFF
_HOLE = 1 << 30


def write_hostile_part(
    folder: Path, seed: int, names: Collection[str] | None = None, port: int = _PORT
) -> Path:
    """Write a part of hostile files, and beside it a clip that nothing in the part may reach.

    Args:
        folder: where to; the clip beside it is `OUTSIDE`.
        seed: of everything drawn.
        names: the files wanted; None for all.
        port: on 127.0.0.1, where the playlists with a network address point to.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    recipes = {
        name: made for group in hostile_groups(port).values() for name, made in group.items()
    }
    metadata = {}
    for index, (name, recipe) in enumerate(recipes.items()):
        if names is not None and name not in names:
            continue
        recipe(folder / name, Random(f"{seed}/{name}"))
        fake = {"label": "FAKE", "split": "train", "original": f"healthy_{index % 6}.mp4"}
        real = {"label": "REAL", "split": "train"}
        metadata[name] = real if name.startswith("healthy") or index % 4 == 0 else fake
    (folder / UNLISTED).write_bytes(clip(size=(176, 144)))
    (folder / UNLISTED_PICTURE).write_bytes(picture(people=0))
    folder.with_name(OUTSIDE).write_bytes(clip(size=(176, 144)))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@functools.cache
def hostile_groups(port: int = _PORT) -> dict[str, dict[str, Recipe]]:
    """Return the recipes by group and file name."""
    return {
        "ordinary": _ordinary() | _named(),
        "stills": _stills(),
        "without_times": _without_times(),
        "faceless": _faceless(),
        "truncated": _truncated(),
        "flipped": _flipped(),
        "scrambled": _scrambled(),
        "patched": _patched(),
        "bombs": _bombs(),
        "not_video": _not_video(),
        "no_file": _no_file(),
        "playlists": _playlists(port),
    }


# --- how a file comes about


def _bytes(make: Callable[[], bytes]) -> Recipe:
    return lambda path, random: _write(path, make())


def _changed(make: Callable[[], bytes], change: Change) -> Recipe:
    return lambda path, random: _write(path, change(make(), random))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _text(content: str) -> Recipe:
    return _bytes(content.encode)


def _series(stem: str, suffix: str, recipes: Iterable[Recipe]) -> dict[str, Recipe]:
    return {f"{stem}_{index:03d}{suffix}": recipe for index, recipe in enumerate(recipes)}


# --- sound files


def _ordinary() -> dict[str, Recipe]:
    fragments = (("movflags", "frag_keyframe+empty_moov+default_base_moof"),)
    pieces = (("movflags", "dash"), ("frag_duration", "200000"))
    uneven = [0, 10, 300, 310, 320, 900, 905, 1500, 2600, 2610, 4000, 4001]
    far = [100_000_000 + 40 * index for index in range(12)]
    early = [40 * index - 200 for index in range(12)]
    interlaced = (("x264-params", "tff=1:threads=1:mbtree=0"), ("crf", "18"))
    intra = (("x264-params", "keyint=1:threads=1:mbtree=0"), ("crf", "18"))
    still = (("preset", "ultrafast"), ("threads", "1"))
    clips: dict[str, dict[str, object]] = {
        "rotated_090.mp4": {"rotation": 90},
        "rotated_180.mp4": {"rotation": 180},
        "rotated_270.mp4": {"rotation": 270},
        "rotated_odd.mp4": {"rotation": 90, "size": (161, 119), "pix_fmt": "yuv444p"},
        "vfr.mp4": {"milliseconds": uneven, "frames": 12},
        "vfr.mkv": {"milliseconds": uneven, "frames": 12},
        "far_from_zero.mp4": {"milliseconds": far, "frames": 12},
        "far_from_zero.mkv": {"milliseconds": far, "frames": 12},
        "before_zero.mp4": {"milliseconds": early, "frames": 12},
        "full_range.mp4": {"full_range": True},
        "bt709.mp4": {"colorspace": 1},
        "one_frame.mp4": {"frames": 1},
        "two_frames.mp4": {"frames": 2},
        "fragmented.mp4": {"container": fragments},
        "dash.mp4": {"container": pieces},
        "faststart.mp4": {"container": (("movflags", "+faststart"),)},
        "interlaced.mp4": {"tuned": interlaced},
        "intra.mp4": {"tuned": intra},
        "one_fps.mp4": {"fps": 1, "frames": 6},
        "thousand_fps.mp4": {"fps": 1000},
        "still_60_s.mp4": {"frames": 1440, "tuned": still},
        "h264.mkv": {},
        "h264.mov": {},
        "h264.ts": {},
        "h264.avi": {"b_frames": 0},
        "h264.flv": {},
        "h264_10_bit.mp4": {"pix_fmt": "yuv420p10le"},
        "h264_422.mp4": {"pix_fmt": "yuv422p"},
        "h264_444.mp4": {"pix_fmt": "yuv444p"},
        "h264_gray.mp4": {"pix_fmt": "gray"},
        "h264_rgb.mp4": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
        "hevc.mp4": {"codec": "libx265"},
        "hevc_10_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        "hevc.mkv": {"codec": "libx265"},
        "vp8.webm": {"codec": "libvpx"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "vp9.mp4": {"codec": "libvpx-vp9"},
        "vp9.ivf": {"codec": "libvpx-vp9"},
        "av1.mp4": {"codec": "libsvtav1"},
        "av1_10_bit.mkv": {"codec": "libsvtav1", "pix_fmt": "yuv420p10le"},
        "mpeg4.mp4": {"codec": "mpeg4"},
        "mpeg4.avi": {"codec": "mpeg4"},
        "mpeg4_b_frames.avi": {"codec": "mpeg4", "tuned": (("bf", "2"),)},
        "mpeg2.ts": {"codec": "mpeg2video"},
        "mpeg2.mpg": {"codec": "mpeg2video"},
        "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
        "wmv2.wmv": {"codec": "wmv2"},
        "flv1.flv": {"codec": "flv1"},
        "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "frames": 6},
        "png_rgb.mov": {"codec": "png", "pix_fmt": "rgb24", "frames": 4},
        "png_rgba.mov": {"codec": "png", "pix_fmt": "rgba", "frames": 4},
        "png_rgb_16_bit.mov": {"codec": "png", "pix_fmt": "rgb48be", "frames": 2},
        "qtrle_palette.mov": {"codec": "qtrle", "pix_fmt": "gray", "frames": 6},
        "ffv1_rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0", "frames": 6},
        "ffv1_gray_16_bit.mkv": {"codec": "ffv1", "pix_fmt": "gray16le", "frames": 6},
        "ffv1_410.mkv": {"codec": "ffv1", "pix_fmt": "yuv410p", "frames": 6},
        "ffv1_odd_420.mkv": {"codec": "ffv1", "size": (161, 119), "frames": 6},
        "raw_bgr.avi": {"codec": "rawvideo", "pix_fmt": "bgr24", "frames": 3},
        "gif_palette.gif": {"codec": "gif", "pix_fmt": "rgb8", "frames": 6},
        "odd_size.mp4": {"size": (161, 119), "codec": "mpeg4"},
        "odd_size_444.mp4": {"size": (161, 119), "pix_fmt": "yuv444p"},
        "odd_width.mp4": {"size": (321, 240), "pix_fmt": "yuv444p"},
    }
    recipes = {name: _clip(name, **keywords) for name, keywords in clips.items()}
    healthy = [_clip(".mp4", at=(0.44 + 0.02 * i, 0.5), sound=i % 2 == 0) for i in range(6)]
    return (
        {f"healthy_{index}.mp4": made for index, made in enumerate(healthy)}
        | recipes
        | {
            "two_videos.mp4": _bytes(lambda: material.two_videos(1, 0)),
            "cover_art_first.mp4": _bytes(material.cover_art_first),
            "subtitles_first.mp4": _bytes(material.with_subtitles),
            "data_stream.ts": _bytes(material.with_data_stream),
            "size_changes.ts": _bytes(lambda: material.size_changes(".ts", "mpeg2video")),
            "trailing_garbage.mp4": _changed(clip, _with_garbage),
            "wrong_suffix.jpg": _bytes(clip),
            "mkv_called.mp4": _bytes(lambda: clip(".mkv")),
            "avi_called.mp4": _bytes(lambda: clip(".avi", codec="mpeg4")),
            "title_in_latin_1.mp4": _bytes(_latin_title),
        }
    )


def _clip(name: str, **keywords: object) -> Recipe:
    # Lists cannot be cached by.
    keywords = {key: tuple(v) if isinstance(v, list) else v for key, v in keywords.items()}
    return _bytes(lambda: clip(Path(f"x{name}").suffix, **keywords))


def _with_garbage(data: bytes, random: Random) -> bytes:
    return data + random.randbytes(50_000)


def _latin_title() -> bytes:
    udta = edit.box(b"udta", edit.box(b"\xa9nam", struct.pack(">HH", 4, 0) + b"Vid\xe9"))
    plain = clip()
    size = (moov := edit.find(plain, "moov")[0]).end - moov.start
    return edit.splice(plain, "moov", size, size, udta)


ODD_NAMES = (
    "with space.mp4",
    " space first.mp4",
    "space last.mp4 ",
    "ünïcødé 视频 🎭.mp4",
    "decomposed e\u0301.mp4",
    "right to left \u202e4pm.mp4",
    "-leading-dash.mp4",
    "--out",
    "a:b.mp4",
    "file:healthy_0.mp4",
    "concat:healthy_0.mp4|healthy_1.mp4",
    "subfile,,start,0,end,0,,:healthy_0.mp4",
    "data:video,hello.mp4",
    "pipe:0",
    "fd:0",
    "http:127.0.0.1",
    "%03d.mp4",
    "%s%n.mp4",
    "*.mp4",
    "[0-9]?.mp4",
    "{brace,}.mp4",
    "$HOME.mp4",
    "~.mp4",
    "a;b&c|d.mp4",
    'quote\'s "two".mp4',
    "new\nline.mp4",
    "\ttab.mp4",
    "\x1b[31mred.mp4",
    ".hidden.mp4",
    ".mp4",
    "no suffix",
    "CAPITALS.MP4",
    "end.json",
    "twin.mp4",
    "twin.mkv.mp4",
    "twin.mov",
    f"{'long' * 62}.mp4",
)


def _named() -> dict[str, Recipe]:
    return {name: _bytes(clip) for name in ODD_NAMES}


def _stills() -> dict[str, Recipe]:
    """Pictures, some under names that FFmpeg's image2 demuxer takes for patterns of others."""
    return {
        "jpeg_face.mp4": _bytes(picture),
        "jpeg_nobody.mp4": _bytes(lambda: picture(people=0)),
        "png_nobody.mp4": _bytes(lambda: picture(people=0, suffix=".png")),
        "unlisted_%03d.jpg": _bytes(picture),
        "unlisted_%*.jpg": _bytes(picture),
        "absent_%03d.png": _bytes(lambda: picture(suffix=".png")),
    }


def _without_times() -> dict[str, Recipe]:
    return {
        "without_times.h264": _clip(".h264"),
        "without_times.hevc": _clip(".hevc", codec="libx265"),
        "without_times.m4v": _clip(".m4v", codec="mpeg4"),
    }


def _faceless() -> dict[str, Recipe]:
    fast = (("preset", "ultrafast"), ("threads", "1"))
    clips: dict[str, dict[str, object]] = {
        "nobody.mp4": {"people": 0},
        "size_2x2.mp4": {"size": (2, 2)},
        "size_16x16.mp4": {"size": (16, 16)},
        "size_1x1.mkv": {"size": (1, 1), "codec": "ffv1"},
        "size_240x1.mkv": {"size": (240, 1), "codec": "ffv1"},
        "size_2x240.mp4": {"size": (2, 240)},
        "size_4000x16.mp4": {"size": (4000, 16), "people": 0, "frames": 6},
        "size_16x4000.mp4": {"size": (16, 4000), "people": 0, "frames": 6},
        "frames_3000.mp4": {"size": (16, 16), "people": 0, "frames": 3000, "tuned": fast},
    }
    return {name: _clip(name, **keywords) for name, keywords in clips.items()} | {
        "frames_3000_mpeg4.avi": _clip(".avi", codec="mpeg4", size=(16, 16), people=0, frames=3000),
    }


# --- damaged files


def _cut(share: float) -> Change:
    return lambda data, random: data[: int(len(data) * share)]


def _truncated() -> dict[str, Recipe]:
    def evenly(count: int) -> list[float]:
        return [(index + 0.5) / count for index in range(count)]

    def cut(make: Callable[[], bytes], count: int) -> list[Recipe]:
        return [_changed(make, _cut(share)) for share in evenly(count)]

    fragments = (("movflags", "frag_keyframe+empty_moov"), ("g", "6"))
    last = [_changed(clip, lambda data, random, n=n: data[:-n]) for n in (1, 2, 4, 8, 100)]
    return (
        _series("truncated", ".mp4", cut(clip, 14) + last)
        | _series("truncated_faststart", ".mp4", cut(faststart, 24))
        | _series("truncated_fragmented", ".mp4", cut(lambda: clip(container=fragments), 6))
        | _series("truncated", ".mkv", cut(lambda: clip(".mkv"), 8))
        | _series("truncated", ".avi", cut(lambda: clip(".avi", codec="mpeg4"), 6))
        | _series("truncated", ".ts", cut(lambda: clip(".ts", codec="mpeg2video"), 4))
        | _series("truncated", ".webm", cut(lambda: clip(".webm", codec="libvpx-vp9"), 4))
        | _series("truncated", ".gif", cut(lambda: clip(".gif", codec="gif", pix_fmt="rgb8"), 2))
        | _series("truncated_hevc", ".mp4", cut(lambda: faststart(codec="libx265"), 4))
    )


def _flip(count: int, where: str = "") -> Change:
    """Flip `count` bits of a box, or of the whole file."""

    def flip(data: bytes, random: Random) -> bytes:
        start, end = 0, len(data)
        if where:
            found = edit.find(data, where)[-1]
            start, end = found.start + 8, found.end
        flipped = bytearray(data)
        for _ in range(count):
            flipped[random.randrange(start, end)] ^= 1 << random.randrange(8)
        return bytes(flipped)

    return flip


def _flipped() -> dict[str, Recipe]:
    def flips(make: Callable[[], bytes], where: str, counts: Iterable[int]) -> list[Recipe]:
        return [_changed(make, _flip(count, where)) for count in counts]

    def talking() -> bytes:
        return clip(sound=True)

    def gif() -> bytes:
        return clip(".gif", codec="gif", pix_fmt="rgb8")

    several = (1, 1, 1, 3, 10, 30)
    tables = [
        _changed(clip, _flip(count, f"{_STBL}/{kind}"))
        for kind in ("stsd", "stts", "stsc", "stsz", "stco", "stss", "ctts")
        for count in (1, 5)
    ]
    return (
        _series("flip_moov", ".mp4", flips(talking, "moov", several * 3))
        | _series("flip_table", ".mp4", tables)
        | _series("flip_mdat", ".mp4", flips(talking, "mdat", (1, 3, 10, 30, 100, 1000) * 3))
        | _series("flip_any", ".mp4", flips(talking, "", several))
        | _series("flip", ".mkv", flips(lambda: clip(".mkv"), "", several))
        | _series("flip", ".avi", flips(lambda: clip(".avi", codec="mpeg4"), "", several))
        | _series("flip", ".ts", flips(lambda: clip(".ts", codec="mpeg2video"), "", several))
        | _series("flip", ".webm", flips(lambda: clip(".webm", codec="libvpx-vp9"), "", several))
        | _series("flip", ".gif", flips(gif, "", several))
        | _series("flip_hevc", ".mp4", flips(lambda: clip(codec="libx265"), "mdat", several))
        | _series("flip_av1", ".mp4", flips(lambda: clip(codec="libsvtav1"), "mdat", several))
        | _series("flip_mpeg4", ".mp4", flips(lambda: clip(codec="mpeg4"), "mdat", several))
    )


def _zeroed(share: float, where: str) -> Change:
    def zero(data: bytes, random: Random) -> bytes:
        found = edit.find(data, where)[-1]
        length = max(1, int(share * (found.end - found.start - 8)))
        at = random.randrange(found.start + 8, found.end - length + 1)
        return edit.put(data, at, bytes(length))

    return zero


def _blocks(action: str, size: int) -> Change:
    def change(data: bytes, random: Random) -> bytes:
        first, second = (random.randrange(0, max(1, len(data) - size)) for _ in range(2))
        one, two = data[first : first + size], data[second : second + size]
        if action == "swap":
            return edit.put(edit.put(data, first, two), second, one)[: len(data)]
        if action == "copy":
            return edit.put(data, second, one)[: len(data)]
        if action == "insert":
            return data[:first] + two + data[first:]
        return data[:first] + data[first + size :]

    return change


def _noise(where: str) -> Change:
    def noise(data: bytes, random: Random) -> bytes:
        found = edit.find(data, where)[-1]
        return edit.put(data, found.start + 8, random.randbytes(found.end - found.start - 8))

    return noise


def _scrambled() -> dict[str, Recipe]:
    zeroed = [
        _changed(clip, _zeroed(share, where))
        for where in ("mdat", "moov")
        for share in (0.01, 0.05, 0.1, 0.3, 0.6, 1.0)
    ]
    moved = [
        (action, _changed(clip, _blocks(action, size)))
        for action in ("swap", "copy", "insert", "remove")
        for size in (16, 512, 4096)
    ]
    spliced = _bytes(lambda: clip()[: len(clip()) // 2] + faststart(codec="libx265"))
    return (
        _series("zeroed", ".mp4", zeroed)
        | {f"{kind}_{index:03d}.mp4": made for index, (kind, made) in enumerate(moved)}
        | {
            "noise_in_mdat.mp4": _changed(clip, _noise("mdat")),
            "noise_in_mdat_hevc.mp4": _changed(lambda: clip(codec="libx265"), _noise("mdat")),
            "noise_in_mdat_vp9.mp4": _changed(lambda: clip(codec="libvpx-vp9"), _noise("mdat")),
            "noise_in_mdat_av1.mp4": _changed(lambda: clip(codec="libsvtav1"), _noise("mdat")),
            "noise_in_mdat_mpeg4.mp4": _changed(lambda: clip(codec="mpeg4"), _noise("mdat")),
            "noise_in_moov.mp4": _changed(clip, _noise("moov")),
            "noise_in_tables.mp4": _changed(clip, _noise(_STBL)),
            "spliced.mp4": spliced,
        }
    )


# --- files whose headers lie


def _field(path: str, offset: int, value: int, width: int = 4) -> Recipe:
    return _bytes(lambda: edit.patch(clip(), path, offset, value, width))


def _fields(*fields: tuple[str, int, int]) -> Recipe:
    def make() -> bytes:
        data = clip()
        for path, offset, value in fields:
            data = edit.patch(data, path, offset, value)
        return data

    return _bytes(make)


def _patched() -> dict[str, Recipe]:
    mdhd, tkhd, hdlr = "moov/trak/mdia/mdhd", "moov/trak/tkhd", "moov/trak/mdia/hdlr"
    avc1 = f"{_STBL}/stsd/avc1"
    one, c = 1 << 16, 46341  # 16.16 fixed point: 1 and the cosine of 45 degrees
    endless = struct.pack(">I4sQ", 1, b"ftyp", (1 << 63) - 1)
    scale = b"\x2a\xd7\xb1\x83\x0f\x42\x40"  # TimestampScale: 1,000,000
    durations = (("moov/mvhd", 24), (tkhd, 28), (mdhd, 24))
    # Times by which the one picture that a decoder still gives out is one that nothing refers to.
    drawn = Random("0/times_shuffled.mp4")
    shuffled = [drawn.randrange(0, 100_000) for _ in range(50)]
    counted = dict.fromkeys(("stts", "ctts", "stsc", "stco", "stss", "stsd"), 12) | {"stsz": 16}
    counts = {
        f"count_{kind}_{value:x}.mp4": _field(f"{_STBL}/{kind}", offset, value)
        for kind, offset in counted.items()
        for value in (0, 0x7FFFFFFF, _HUGE)
    }
    sizes = {
        f"box_{path.rpartition('/')[2]}_{value:x}.mp4": _field(path, 0, value)
        for path in ("moov", "moov/trak", _STBL, f"{_STBL}/stsd", f"{avc1}/avcC")
        for value in (0, 1, 7, _HUGE)
    }
    return (
        counts
        | sizes
        | {
            "movie_timescale_0.mp4": _field("moov/mvhd", 20, 0),
            "movie_timescale_huge.mp4": _field("moov/mvhd", 20, _HUGE),
            "timescale_0.mp4": _field(mdhd, 20, 0),
            "timescale_1.mp4": _field(mdhd, 20, 1),
            "timescale_huge.mp4": _field(mdhd, 20, 0x7FFFFFFF),
            "timescale_negative.mp4": _field(mdhd, 20, _HUGE),
            "duration_0.mp4": _fields(*((where, at, 0) for where, at in durations)),
            "duration_huge.mp4": _fields(*((where, at, _HUGE) for where, at in durations)),
            "sample_durations_0.mp4": _field(f"{_STBL}/stts", 20, 0),
            "sample_durations_huge.mp4": _field(f"{_STBL}/stts", 20, 0x7FFFFFFF),
            "sample_durations_negative.mp4": _field(f"{_STBL}/stts", 20, _HUGE),
            "times_shuffled.mp4": _bytes(lambda: _times(clip(), shuffled)),
            "times_overflow.mp4": _bytes(lambda: _times(clip(), [0x7FFFFFFF, 0x80000000])),
            "sample_sizes_huge.mp4": _bytes(lambda: _sample_sizes(clip(), 0x7FFFFFFF)),
            "sample_sizes_0.mp4": _bytes(lambda: _sample_sizes(clip(), 0)),
            "chunk_beyond_end.mp4": _field(f"{_STBL}/stco", 16, 0x7FFFFFFF),
            "chunk_in_header.mp4": _field(f"{_STBL}/stco", 16, 0),
            "chunk_description_9.mp4": _field(f"{_STBL}/stsc", 24, 9),
            "keyframe_first_is_the_fifth.mp4": _field(f"{_STBL}/stss", 16, 5),
            "edit_beyond_end.mp4": _field("moov/trak/edts/elst", 20, 0x7FFFFFFF),
            "edit_empty.mp4": _field("moov/trak/edts/elst", 20, _HUGE),
            "edit_rate_0.mp4": _field("moov/trak/edts/elst", 24, 0),
            "edit_count_huge.mp4": _field("moov/trak/edts/elst", 12, _HUGE),
            "edits_100000.mp4": _bytes(lambda: _edits(100_000)),
            "matrix_45_degrees.mp4": _bytes(lambda: _matrix([c, c, 0, -c, c, 0, 0, 0, 1 << 30])),
            "matrix_mirrored.mp4": _bytes(
                lambda: _matrix([-one, 0, 0, 0, one, 0, 160 * one, 0, 1 << 30])
            ),
            "matrix_zero.mp4": _bytes(lambda: _matrix([0] * 9)),
            "matrix_huge.mp4": _bytes(lambda: _matrix([0x7FFFFFFF] * 9)),
            "handler_sound.mp4": _field(hdlr, 16, int.from_bytes(b"soun", "big")),
            "handler_unknown.mp4": _field(hdlr, 16, int.from_bytes(b"zzzz", "big")),
            "codec_unknown.mp4": _field(avc1, 4, int.from_bytes(b"zzzz", "big")),
            "codec_hevc.mp4": _field(avc1, 4, int.from_bytes(b"hvc1", "big")),
            "codec_mpeg4.mp4": _field(avc1, 4, int.from_bytes(b"mp4v", "big")),
            "codec_sound.mp4": _field(avc1, 4, int.from_bytes(b"mp4a", "big")),
            "codec_encrypted.mp4": _field(avc1, 4, int.from_bytes(b"encv", "big")),
            "brand_unknown.mp4": _field("ftyp", 8, int.from_bytes(b"zzzz", "big")),
            "avcc_zeroed.mp4": _bytes(lambda: _avcc(lambda old: bytes(len(old)))),
            "avcc_empty.mp4": _bytes(lambda: _avcc(lambda old: b"")),
            "avcc_removed.mp4": _bytes(lambda: edit.replace_box(clip(), f"{avc1}/avcC", b"")),
            "avcc_length_size_1.mp4": _field(f"{avc1}/avcC", 12, 0xFC, 1),
            "tables_removed.mp4": _bytes(lambda: edit.replace_box(clip(), _STBL, b"")),
            "tracks_none.mp4": _bytes(lambda: edit.replace_box(clip(), "moov/trak", b"")),
            "tracks_1500.mp4": _bytes(lambda: _repeated_track(1500)),
            "nested_20000.mp4": _bytes(lambda: _nested(20_000)),
            "moov_twice.mp4": _bytes(lambda: clip() + clip()[edit.find(clip(), "moov")[0].start :]),
            "moov_alone.mp4": _bytes(lambda: clip()[edit.find(clip(), "moov")[0].start :]),
            "mdat_alone.mp4": _bytes(lambda: clip()[: edit.find(clip(), "moov")[0].start]),
            "mdat_to_the_end.mp4": _field("mdat", 0, 0),
            "first_box_huge.mp4": _bytes(lambda: endless + clip()),
            "riff_sizes_huge.avi": _bytes(lambda: _avi(4, _HUGE)),
            "streams_65535.avi": _bytes(lambda: _avi(56, 65535)),
            "microseconds_0.avi": _bytes(lambda: _avi(32, 0)),
            "rate_0.avi": _bytes(lambda: edit.put(_avi(32, 0), _rate_at(_avi(32, 0)), bytes(8))),
            "scale_0.mkv": _bytes(lambda: clip(".mkv").replace(scale, scale[:4] + bytes(3))),
        }
    )


def _times(data: bytes, offsets: list[int]) -> bytes:
    """Overwrite the composition offsets of the samples, round and round."""
    found = edit.find(data, f"{_STBL}/ctts")[-1]
    for index, at in enumerate(range(found.start + 20, found.end, 8)):
        data = edit.put(data, at, struct.pack(">I", offsets[index % len(offsets)]))
    return data


def _sample_sizes(data: bytes, size: int) -> bytes:
    found = edit.find(data, f"{_STBL}/stsz")[-1]
    count = (found.end - found.start - 20) // 4
    return edit.put(data, found.start + 20, struct.pack(">I", size) * count)


def _edits(count: int) -> bytes:
    entry = struct.pack(">IiI", 1, 0, 1 << 16)
    listing = struct.pack(">II", 0, count) + entry * count
    return edit.replace_box(clip(), "moov/trak/edts/elst", edit.box(b"elst", listing))


def _matrix(values: list[int]) -> bytes:
    data = clip()
    at = edit.find(data, "moov/trak/tkhd")[-1].start + 48
    return edit.put(data, at, struct.pack(">9i", *values))


def _avcc(change: Callable[[bytes], bytes]) -> bytes:
    path = f"{_STBL}/stsd/avc1/avcC"
    found = edit.find(clip(), path)[-1]
    new = edit.box(b"avcC", change(clip()[found.start + 8 : found.end]))
    return edit.replace_box(clip(), path, new)


def _repeated_track(count: int) -> bytes:
    found = edit.find(clip(), "moov/trak")[-1]
    return edit.replace_box(clip(), "moov/trak", clip()[found.start : found.end] * count)


def _nested(depth: int) -> bytes:
    whole = 8 * depth
    nested = b"".join(struct.pack(">I4s", whole - 8 * index, b"moov") for index in range(depth))
    return clip()[:32] + nested


def _avi(at: int, value: int) -> bytes:
    return edit.put(clip(".avi", codec="mpeg4"), at, struct.pack("<I", value))


def _rate_at(data: bytes) -> int:
    return data.index(b"strh") + 8 + 20


# --- small files that ask for much


def _bombs() -> dict[str, Recipe]:
    def uniform(samples: int) -> bytes:
        data = edit.patch(edit.patch(clip(), f"{_STBL}/stsz", 12, 1), f"{_STBL}/stsz", 16, samples)
        data = edit.patch(data, f"{_STBL}/stts", 16, samples)
        return edit.patch(data, f"{_STBL}/stsc", 20, samples)

    def packed(size: int, declared: int) -> bytes:
        cmvd = edit.box(b"cmvd", struct.pack(">I", declared) + zlib.compress(bytes(size), 9))
        inner = edit.box(b"dcom", b"zlib") + cmvd
        return clip()[:32] + edit.box(b"moov", edit.box(b"cmov", inner))

    def vp9() -> bytes:
        return clip(".ivf", codec="libvpx-vp9")

    def vp8() -> bytes:
        return clip(".ivf", codec="libvpx")

    def mjpeg() -> bytes:
        return clip(".avi", codec="mjpeg", pix_fmt="yuvj420p")

    def mpeg2() -> bytes:
        return clip(".ts", codec="mpeg2video")

    headers: dict[str, Callable[[int], bytes]] = {
        ".mp4": lambda side: edit.resize_avc(clip(), side, side),
        ".vp9.ivf": lambda side: edit.resize_vp9(vp9(), side, side),
        ".mjpeg.avi": lambda side: edit.resize_jpeg(mjpeg(), side, side),
        ".gif": lambda side: material.gif(side, side, 20),
        ".png": lambda side: edit.png(side, side, 8, 2, bytes(1000)),
    }
    declared = {
        f"declared_{side}{suffix}": _bytes(lambda make=make, side=side: make(side))
        for suffix, make in headers.items()
        for side in (8192, 16000, 16384, 65520)
    }
    avc1 = f"{_STBL}/stsd/avc1"
    # Without x264's lookahead, which would hold 40 such pictures.
    fast = (("preset", "ultrafast"), ("tune", "zerolatency"), ("threads", "1"))
    return declared | {
        "declared_4096.mp4": _bytes(lambda: edit.resize_avc(clip(), 4096, 4096)),
        "declared_65520x16.mp4": _bytes(lambda: edit.resize_avc(clip(), 65520, 16)),
        "declared_0_in_track.mp4": _fields((avc1, 32, 0), ("moov/trak/tkhd", 84, 0)),
        "declared_65535_in_track.mp4": _fields((avc1, 32, _HUGE), ("moov/trak/tkhd", 84, _HUGE)),
        "declared_16383.vp8.ivf": _bytes(lambda: edit.resize_vp8(vp8(), 16383, 16383)),
        "declared_4095.mpeg2.ts": _bytes(lambda: edit.resize_mpeg2(mpeg2(), 4095, 4095)),
        "picture_16000.png": _bytes(lambda: edit.png(16000, 16000, 1, 0, bytes(2001 * 16000))),
        "picture_8192x4320.mp4": _clip(".mp4", size=(8192, 4320), frames=2, tuned=fast),
        "samples_20_million.mp4": _bytes(lambda: uniform(20_000_000)),
        "samples_2_billion.mp4": _bytes(lambda: uniform(0x7FFFFFFF)),
        "packed_moov_100_mb.mp4": _bytes(lambda: packed(100_000_000, 100_000_000)),
        "packed_moov_2_gb_declared.mp4": _bytes(lambda: packed(1000, 0x7FFFFFFF)),
        "hole_of_zeros.mp4": lambda path, _: _with_hole(path, b""),
        "hole_behind_a_clip.mp4": lambda path, _: _with_hole(path, clip()),
        "hole_behind_a_stream.ts": lambda path, _: _with_hole(path, mpeg2()),
    }


def _with_hole(path: Path, content: bytes) -> None:
    """Write content and a GiB of zeros, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(_HOLE)


# --- what is no video


def _not_video() -> dict[str, Recipe]:
    page = "<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
    noise = [_changed(lambda: b"", lambda _, random, n=n: random.randbytes(n)) for n in (64, 5000)]
    lyrics = "1\n00:00:00,000 --> 00:00:02,000\nHello\n\n"
    elf = b"\x7fELF\x02\x01\x01" + bytes(57)
    return _series("noise", ".mp4", noise) | {
        "zero_bytes.mp4": _bytes(lambda: b""),
        "one_byte.mp4": _bytes(lambda: b"\0"),
        "zeros.mp4": _bytes(lambda: bytes(100_000)),
        "ones.mp4": _bytes(lambda: b"\xff" * 100_000),
        "ftyp_alone.mp4": _bytes(lambda: clip()[:32]),
        "text.mp4": _text("This is not a video.\n" * 50),
        "html_page.mp4": _text(page),
        "html_page_long.mp4": _text(page * 2000),
        "json.mp4": _text(json.dumps({"error": "quota exceeded"})),
        "subtitles.mp4": _text(lyrics * 40),
        "executable.mp4": _bytes(lambda: elf),
        "zip.mp4": _bytes(lambda: material.archive("zip")),
        "gzip.mp4": _bytes(lambda: material.archive("gzip")),
        "git_lfs_pointer.mp4": _text("version https://git-lfs.github.com/spec/v1\nsize 12345\n"),
        "ansi_art.txt": _text("\x1b[31mhello\x1b[0m\n" * 40),
        "sound.wav.mp4": _bytes(lambda: sound(".wav", "pcm_s16le")),
        "sound.mp3.mp4": _bytes(lambda: sound(".mp3", "libmp3lame")),
        "sound.aac.mp4": _bytes(lambda: sound(".aac", "aac")),
        "sound.mp4": _bytes(lambda: sound(".mp4", "aac")),
        "sound.mkv": _bytes(lambda: sound(".mkv", "aac")),
    }


def _no_file() -> dict[str, Recipe]:
    def link(target: str) -> Recipe:
        return lambda path, _: path.symlink_to(target)

    def nothing(path: Path, _: Random) -> None:
        pass

    def unreadable(path: Path, _: Random) -> None:
        path.write_bytes(clip())
        path.chmod(0)

    def loop(path: Path, _: Random) -> None:
        path.with_name(f"{path.name}.other").symlink_to(path.name)
        path.symlink_to(f"{path.name}.other")

    return {
        "absent.mp4": nothing,
        "absent:with_colon.mp4": nothing,
        "folder.mp4": lambda path, _: path.mkdir(),
        "fifo.mp4": lambda path, _: os.mkfifo(path),
        "socket.mp4": lambda path, _: os.mknod(path, stat.S_IFSOCK | 0o600),
        "link_dangling.mp4": link("nowhere.mp4"),
        "link_loop.mp4": loop,
        "link_to_folder.mp4": link("."),
        "link_to_device.mp4": link("/dev/zero"),
        "link_to_fifo.mp4": link("fifo.mp4"),
        "link_to_clip.mp4": link("healthy_0.mp4"),
        "without_permission.mp4": unreadable,
    }


# --- files that name other files


def _playlists(port: int) -> dict[str, Recipe]:
    """Playlists of each kind, to each target, under names that FFmpeg believes and does not."""
    url = f"http://127.0.0.1:{port}/clip.mp4"
    kinds: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
        "hls": ((".mp4", ".m3u8"), _hls),
        "hls_master": ((".mp4", ".m3u8"), _hls_master),
        "ffconcat": ((".mp4", ".ffconcat"), _ffconcat),
        "dash": ((".mp4", ".mpd"), _dash),
        "redirect": ((".mp4",), lambda target: f"[Reference]\r\nRef1={target}\r\n"),
    }
    targets = {"inside": UNLISTED, "network": url, "passwd": "/etc/passwd"}
    recipes: dict[str, Recipe] = {}
    for kind, (suffixes, write) in kinds.items():
        for suffix in suffixes:
            for where, target in targets.items():
                recipes[f"{kind}_{where}{suffix}"] = _text(write(target))
            recipes[f"{kind}_outside{suffix}"] = _to_outside(write)
    sdp = (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    return recipes | {
        "sdp.mp4": _text(sdp),
        "sdp.sdp": _text(sdp),
        "rtsp.mp4": _text(f"RTSPtextrtsp://127.0.0.1:{port}/x\n"),
        "mp4_data_outside.mp4": lambda path, _: _write(path, _elsewhere(path)),
    }


def _to_outside(write: Callable[[str], str]) -> Recipe:
    return lambda path, _: _write(path, write(str(path.parent.with_name(OUTSIDE))).encode())


def _hls(target: str) -> str:
    return (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f"#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"
    )


def _hls_master(target: str) -> str:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=176x144\n{target}\n"


def _ffconcat(target: str) -> str:
    return f"ffconcat version 1.0\nfile '{target}'\n"


def _dash(target: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000" '
        f'width="176" height="144"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>\n"
    )


def _elsewhere(path: Path) -> bytes:
    """Return an mp4 whose samples lie outside the part, as QuickTime's aliases say it."""
    name = str(path.parent.with_name(OUTSIDE)).encode()
    # An alias record of version 2 (FFmpeg, mov_read_dref): a body, then tagged fields.
    body = bytearray(150)
    body[0:8] = struct.pack(">IHH", 0, 150, 2)
    body[10] = 1
    fields = b""
    for tag, value in ((2, name), (18, name), (19, b"/")):
        fields += struct.pack(">HH", tag, len(value)) + value + b"\0" * (len(value) % 2)
    alias = edit.box(b"alis", bytes(4) + bytes(body) + fields + struct.pack(">HH", 0xFFFF, 0))
    dref = edit.box(b"dref", struct.pack(">II", 0, 1) + alias)
    return edit.replace_box(clip(), "moov/trak/mdia/minf/dinf/dref", dref)


def main() -> None:
    """Write the part from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    part = write_hostile_part(options.folder, options.seed)
    print(f"{len(json.loads((part / 'metadata.json').read_text()))} files in {part}")


if __name__ == "__main__":
    main()
