"""Write the hostile part: more than 500 files that are damaged, unusual or malicious.

Each file has a recipe and random numbers of its own, drawn from the seed and the file's name, so
that a file has the same bytes whether it is written alone or with the whole part. A name begins
with what was done. The files of the group `ordinary` are valid and merely unusual: every one of
them shows a face.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from random import Random

from hostile import edit, material
from hostile.material import clip, faststart, picture, sound

Recipe = Callable[[Path, Random], object]
Source = Callable[[], bytes]
Change = Callable[[bytes, Random], bytes]

OUTSIDE = "outside.mp4"  # next to the part, and not to be opened
# In the part, but not in its metadata.json.
UNLISTED, UNLISTED_PICTURE = "unlisted.mp4", "unlisted_001.jpg"
_PORT = 9  # "discard"
_STBL = "moov/trak/mdia/minf/stbl"
_LARGE, _HUGE = 0x7FFFFFFF, 0xFFFFFFFF

# What is damaged.
SOURCES: dict[str, Source] = {
    "mp4": clip,
    "talking": partial(clip, sound=True),
    "faststart": faststart,
    "fragmented": partial(clip, options="movflags=frag_keyframe+empty_moov g=6"),
    "mkv": partial(clip, ".mkv"),
    "avi": partial(clip, ".avi", codec="mpeg4"),
    "mjpeg": partial(clip, ".avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "ts": partial(clip, ".ts", codec="mpeg2video"),
    "webm": partial(clip, ".webm", codec="libvpx-vp9"),
    "vp9_ivf": partial(clip, ".ivf", codec="libvpx-vp9"),
    "gif": partial(clip, ".gif", codec="gif", pix_fmt="rgb8"),
    "hevc": partial(clip, codec="libx265"),
    "hevc_faststart": partial(faststart, codec="libx265"),
    "vp9": partial(clip, codec="libvpx-vp9"),
    "av1": partial(clip, codec="libsvtav1"),
    "mpeg4": partial(clip, codec="mpeg4"),
}


def write_hostile_part(
    folder: Path, seed: int, names: Collection[str] | None = None, port: int = _PORT
) -> Path:
    """Write and return a part, and next to it a clip that nothing in the part may reach.

    Args:
        folder: of the part; the clip next to it is `OUTSIDE`.
        seed: of all random numbers.
        names: the files wanted; None for all.
        port: on 127.0.0.1, for the playlists with a network address.
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
        "ordinary": _ordinary() | dict.fromkeys(ODD_NAMES, _bytes(clip)),
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


# --- how a file is made


def _bytes(make: Source) -> Recipe:
    return lambda path, random: path.write_bytes(make())


def _changed(source: str, change: Change) -> Recipe:
    return lambda path, random: path.write_bytes(change(SOURCES[source](), random))


def _text(content: str) -> Recipe:
    return _bytes(content.encode)


def _series(stem: str, suffix: str, recipes: Iterable[Recipe]) -> dict[str, Recipe]:
    return {f"{stem}_{index:03d}{suffix}": recipe for index, recipe in enumerate(recipes)}


def _clips(table: dict[str, dict[str, object]]) -> dict[str, Recipe]:
    """Return recipes from file names, several in one string, and keywords of `clip`."""
    return {
        name: _bytes(partial(clip, Path(f"x{name}").suffix, **keywords))
        for names, keywords in table.items()
        for name in names.split()
    }


# --- valid files


def _ordinary() -> dict[str, Recipe]:
    uneven = (0, 10, 300, 310, 320, 900, 905, 1500, 2600, 2610, 4000, 4001)
    far = tuple(100_000_000 + 40 * index for index in range(12))
    early = tuple(40 * index - 200 for index in range(12))
    interlaced = "crf=18 x264-params=tff=1:threads=1:mbtree=0"
    intra = "crf=18 x264-params=keyint=1:threads=1:mbtree=0"
    healthy = {
        f"healthy_{index}.mp4": {"at": (0.44 + 0.02 * index, 0.5), "sound": index % 2 == 0}
        for index in range(6)
    }
    clips: dict[str, dict[str, object]] = {
        "rotated_090.mp4": {"rotation": 90},
        "rotated_180.mp4": {"rotation": 180},
        "rotated_270.mp4": {"rotation": 270},
        "rotated_odd.mp4": {"rotation": 90, "size": (161, 119), "pix_fmt": "yuv444p"},
        "vfr.mp4 vfr.mkv": {"milliseconds": uneven, "frames": 12},
        "far_from_zero.mp4 far_from_zero.mkv": {"milliseconds": far, "frames": 12},
        "before_zero.mp4": {"milliseconds": early, "frames": 12},
        "full_range.mp4": {"full_range": True},
        "bt709.mp4": {"colorspace": 1},
        "one_frame.mp4": {"frames": 1},
        "two_frames.mp4": {"frames": 2},
        "fragmented.mp4": {"options": "movflags=frag_keyframe+empty_moov+default_base_moof"},
        "dash.mp4": {"options": "movflags=dash frag_duration=200000"},
        "faststart.mp4": {"options": "movflags=+faststart"},
        "interlaced.mp4": {"encoder": interlaced},
        "intra.mp4": {"encoder": intra},
        "one_fps.mp4": {"fps": 1, "frames": 6},
        "thousand_fps.mp4": {"fps": 1000},
        "still_60_s.mp4": {"frames": 1440, "encoder": "preset=ultrafast threads=1"},
        "h264.mkv h264.mov h264.ts h264.flv": {},
        "h264.avi": {"b_frames": 0},
        "h264_10_bit.mp4": {"pix_fmt": "yuv420p10le"},
        "h264_422.mp4": {"pix_fmt": "yuv422p"},
        "h264_444.mp4": {"pix_fmt": "yuv444p"},
        "h264_gray.mp4": {"pix_fmt": "gray"},
        "h264_rgb.mp4": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
        "hevc.mp4 hevc.mkv": {"codec": "libx265"},
        "hevc_10_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        "vp8.webm": {"codec": "libvpx"},
        "vp9.webm vp9.mp4 vp9.ivf": {"codec": "libvpx-vp9"},
        "av1.mp4": {"codec": "libsvtav1"},
        "av1_10_bit.mkv": {"codec": "libsvtav1", "pix_fmt": "yuv420p10le"},
        "mpeg4.mp4 mpeg4.avi": {"codec": "mpeg4"},
        "mpeg4_b_frames.avi": {"codec": "mpeg4", "encoder": "bf=2"},
        "mpeg2.ts mpeg2.mpg": {"codec": "mpeg2video"},
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
    return _clips(healthy | clips) | {
        "two_videos.mp4": _bytes(material.two_videos),
        "cover_art_first.mp4": _bytes(material.cover_art_first),
        "subtitles_first.mp4": _bytes(material.with_subtitles),
        "data_stream.ts": _bytes(material.with_data_stream),
        "size_changes.ts": _bytes(material.size_changes),
        "trailing_garbage.mp4": _changed(
            "mp4", lambda data, random: data + random.randbytes(50_000)
        ),
        "wrong_suffix.jpg": _bytes(clip),
        "mkv_called.mp4": _bytes(SOURCES["mkv"]),
        "avi_called.mp4": _bytes(SOURCES["avi"]),
        "title_in_latin_1.mp4": _bytes(_latin_title),
    }


def _latin_title() -> bytes:
    udta = edit.box(b"udta", edit.box(b"\xa9nam", struct.pack(">HH", 4, 0) + b"Vid\xe9"))
    (moov,) = edit.find(clip(), "moov")
    size = moov.end - moov.start
    return edit.splice(clip(), "moov", size, size, udta)


ODD_NAMES = (
    *("a:b.mp4", "file:healthy_0.mp4", "data:video,hello.mp4", "pipe:0", "fd:0", "http:127.0.0.1"),
    *("concat:healthy_0.mp4|healthy_1.mp4", "subfile,,start,0,end,0,,:healthy_0.mp4"),
    *("%03d.mp4", "%s%n.mp4", "*.mp4", "[0-9]?.mp4", "{brace,}.mp4", "$HOME.mp4", "~.mp4"),
    *("a;b&c|d.mp4", "-leading-dash.mp4", "--output", ".hidden.mp4", ".mp4", "CAPITALS.MP4"),
    *("twin.mp4", "twin.mkv.mp4", "twin.mov", "end.json", "no suffix", f"{'long' * 62}.mp4"),
    *("with space.mp4", " space first.mp4", "space last.mp4 ", "\ttab.mp4", "new\nline.mp4"),
    *("ünïcødé 视频 🎭.mp4", "decomposed e\u0301.mp4", "right to left \u202e4pm.mp4"),
    *("\x1b[31mred.mp4", 'quote\'s "two".mp4'),
)


def _stills() -> dict[str, Recipe]:
    """Pictures, some with names that FFmpeg's image2 demuxer reads as patterns of file names."""
    return dict.fromkeys(
        ("jpeg_face.mp4", "unlisted_%03d.jpg", "unlisted_%*.jpg"), _bytes(picture)
    ) | {
        "jpeg_nobody.mp4": _bytes(partial(picture, people=0)),
        "png_nobody.mp4": _bytes(partial(picture, people=0, suffix=".png")),
        "absent_%03d.png": _bytes(partial(picture, suffix=".png")),
    }


def _without_times() -> dict[str, Recipe]:
    codecs = {"h264": "libx264", "hevc": "libx265", "m4v": "mpeg4"}
    return _clips({f"without_times.{suffix}": {"codec": codec} for suffix, codec in codecs.items()})


def _faceless() -> dict[str, Recipe]:
    many: dict[str, object] = {"size": (16, 16), "people": 0, "frames": 3000}
    return _clips(
        {
            "nobody.mp4": {"people": 0},
            "size_2x2.mp4": {"size": (2, 2)},
            "size_16x16.mp4": {"size": (16, 16)},
            "size_1x1.mkv": {"size": (1, 1), "codec": "ffv1"},
            "size_240x1.mkv": {"size": (240, 1), "codec": "ffv1"},
            "size_2x240.mp4": {"size": (2, 240)},
            "size_4000x16.mp4": {"size": (4000, 16), "people": 0, "frames": 6},
            "size_16x4000.mp4": {"size": (16, 4000), "people": 0, "frames": 6},
            "frames_3000.mp4": many | {"encoder": "preset=ultrafast threads=1"},
            "frames_3000_mpeg4.avi": many | {"codec": "mpeg4"},
        }
    )


# --- damaged files


def _truncated() -> dict[str, Recipe]:
    def cut(source: str, share: float) -> Recipe:
        return _changed(source, lambda data, random: data[: int(len(data) * share)])

    def without_last(count: int) -> Recipe:
        return _changed("mp4", lambda data, random: data[:-count])

    containers = {"mkv": 8, "avi": 6, "ts": 4, "webm": 4, "gif": 2}
    table = [
        ("truncated", ".mp4", "mp4", 14),
        ("truncated_faststart", ".mp4", "faststart", 24),
        ("truncated_fragmented", ".mp4", "fragmented", 6),
        *(("truncated", f".{kind}", kind, count) for kind, count in containers.items()),
        ("truncated_hevc", ".mp4", "hevc_faststart", 4),
    ]
    recipes: dict[str, Recipe] = {}
    for stem, suffix, source, count in table:
        made = [cut(source, (index + 0.5) / count) for index in range(count)]
        recipes |= _series(stem, suffix, made)
    return recipes | _series("without_end", ".mp4", map(without_last, (1, 2, 4, 8, 100)))


def _inside(data: bytes, path: str) -> tuple[int, int]:
    """Return the first byte of a box's content, and its end; of the whole file without a path."""
    if not path:
        return 0, len(data)
    box = edit.find(data, path)[-1]
    return box.start + 8, box.end


def _flip(source: str, path: str, count: int) -> Recipe:
    """Flip `count` bits of a box, or of the whole file."""

    def flip(data: bytes, random: Random) -> bytes:
        flipped = bytearray(data)
        for _ in range(count):
            flipped[random.randrange(*_inside(data, path))] ^= 1 << random.randrange(8)
        return bytes(flipped)

    return _changed(source, flip)


def _flipped() -> dict[str, Recipe]:
    several = (1, 1, 1, 3, 10, 30)
    table = [
        ("flip_moov", ".mp4", "talking", "moov", several * 3),
        ("flip_mdat", ".mp4", "talking", "mdat", (1, 3, 10, 30, 100, 1000) * 3),
        ("flip_any", ".mp4", "talking", "", several),
        *(("flip", f".{kind}", kind, "", several) for kind in ("mkv", "avi", "ts", "webm", "gif")),
        *((f"flip_{kind}", ".mp4", kind, "mdat", several) for kind in ("hevc", "av1", "mpeg4")),
    ]
    kinds = ("stsd", "stts", "stsc", "stsz", "stco", "stss", "ctts")
    tables = [_flip("mp4", f"{_STBL}/{kind}", count) for kind in kinds for count in (1, 5)]
    recipes = _series("flip_table", ".mp4", tables)
    for stem, suffix, source, path, counts in table:
        recipes |= _series(stem, suffix, [_flip(source, path, count) for count in counts])
    return recipes


def _zeroed(path: str, share: float) -> Recipe:
    def zero(data: bytes, random: Random) -> bytes:
        start, end = _inside(data, path)
        length = max(1, int(share * (end - start)))
        return edit.put(data, random.randrange(start, end - length + 1), bytes(length))

    return _changed("mp4", zero)


def _moved(action: str, size: int) -> Recipe:
    def move(data: bytes, random: Random) -> bytes:
        first, second = (random.randrange(0, max(1, len(data) - size)) for _ in range(2))
        one, two = data[first : first + size], data[second : second + size]
        if action == "swap":
            return edit.put(edit.put(data, first, two), second, one)[: len(data)]
        if action == "copy":
            return edit.put(data, second, one)[: len(data)]
        return data[:first] + (two + data[first:] if action == "insert" else data[first + size :])

    return _changed("mp4", move)


def _noise(source: str, path: str = "mdat") -> Recipe:
    def noise(data: bytes, random: Random) -> bytes:
        start, end = _inside(data, path)
        return edit.put(data, start, random.randbytes(end - start))

    return _changed(source, noise)


def _scrambled() -> dict[str, Recipe]:
    shares = (0.01, 0.05, 0.1, 0.3, 0.6, 1.0)
    zeroed = [_zeroed(path, share) for path in ("mdat", "moov") for share in shares]
    actions = itertools.product(("swap", "copy", "insert", "remove"), (16, 512, 4096))
    moved = {f"{kind}_{size:04d}.mp4": _moved(kind, size) for kind, size in actions}
    codecs = ("hevc", "vp9", "av1", "mpeg4")
    noise = {f"noise_in_mdat_{source}.mp4": _noise(source) for source in codecs}
    return (
        moved
        | noise
        | _series("zeroed", ".mp4", zeroed)
        | {
            "noise_in_mdat.mp4": _noise("mp4"),
            "noise_in_moov.mp4": _noise("mp4", "moov"),
            "noise_in_tables.mp4": _noise("mp4", _STBL),
            "spliced.mp4": _bytes(lambda: clip()[: len(clip()) // 2] + SOURCES["hevc_faststart"]()),
        }
    )


# --- files whose headers are wrong


def _fields(value: int, *fields: tuple[str, int]) -> Recipe:
    """Return a clip in which some fields of 32 bits, given by box and offset, have a value."""

    def make() -> bytes:
        data = clip()
        for path, offset in fields:
            data = edit.patch(data, path, offset, value)
        return data

    return _bytes(make)


def _patched() -> dict[str, Recipe]:
    mdhd, tkhd, hdlr = "moov/trak/mdia/mdhd", "moov/trak/tkhd", "moov/trak/mdia/hdlr"
    elst, avc1 = "moov/trak/edts/elst", f"{_STBL}/stsd/avc1"
    counted = dict.fromkeys(("stts", "ctts", "stsc", "stco", "stss", "stsd"), 12) | {"stsz": 16}
    sized = ("moov", "moov/trak", _STBL, f"{_STBL}/stsd", f"{avc1}/avcC")
    # Stem of the name, box, offset of the field in it, and the values that it gets.
    numbers = [
        ("movie_timescale", "moov/mvhd", 20, (0, _HUGE)),
        ("timescale", mdhd, 20, (0, 1, _LARGE, _HUGE)),
        ("sample_durations", f"{_STBL}/stts", 20, (0, _LARGE, _HUGE)),
        ("chunk_offset", f"{_STBL}/stco", 16, (0, _LARGE)),
        ("chunk_description", f"{_STBL}/stsc", 24, (9,)),
        ("first_keyframe", f"{_STBL}/stss", 16, (5,)),
        ("edit_start", elst, 20, (_LARGE, _HUGE)),
        ("edit_rate", elst, 24, (0,)),
        ("edit_count", elst, 12, (_HUGE,)),
        ("mdat_size", "mdat", 0, (0,)),
        *(
            (f"count_{kind}", f"{_STBL}/{kind}", at, (0, _LARGE, _HUGE))
            for kind, at in counted.items()
        ),
        *((f"box_{path.rpartition('/')[2]}", path, 0, (0, 1, 7, _HUGE)) for path in sized),
    ]
    codes = [("handler", hdlr, 16, "soun zzzz"), ("codec", avc1, 4, "hvc1 mp4v mp4a encv zzzz")]
    codes += [("brand", "ftyp", 8, "zzzz")]
    durations = (("moov/mvhd", 24), (tkhd, 28), (mdhd, 24))
    # With these times the only picture that a decoder still returns is one that nothing refers to.
    drawn = Random("0/times_shuffled.mp4")
    shuffled = [drawn.randrange(0, 100_000) for _ in range(50)]
    one, c = 1 << 16, 46341  # 16.16 fixed point: 1 and the cosine of 45 degrees
    endless = struct.pack(">I4sQ", 1, b"ftyp", (1 << 63) - 1)
    scale = b"\x2a\xd7\xb1\x83\x0f\x42\x40"  # TimestampScale: 1,000,000
    recipes = {
        f"{stem}_{value:x}.mp4": _fields(value, (path, offset))
        for stem, path, offset, values in numbers
        for value in values
    }
    recipes |= {
        f"{stem}_{code}.mp4": _fields(int.from_bytes(code.encode(), "big"), (path, offset))
        for stem, path, offset, values in codes
        for code in values.split()
    }
    return recipes | {
        "duration_0.mp4": _fields(0, *durations),
        "duration_huge.mp4": _fields(_HUGE, *durations),
        "times_shuffled.mp4": _bytes(lambda: _times(shuffled)),
        "times_overflow.mp4": _bytes(lambda: _times([_LARGE, 0x80000000])),
        "sample_sizes_huge.mp4": _bytes(lambda: _sample_sizes(_LARGE)),
        "sample_sizes_0.mp4": _bytes(lambda: _sample_sizes(0)),
        "edits_100000.mp4": _bytes(lambda: _edits(100_000)),
        "matrix_45_degrees.mp4": _matrix(c, c, 0, -c, c, 0, 0, 0, 1 << 30),
        "matrix_mirrored.mp4": _matrix(-one, 0, 0, 0, one, 0, 160 * one, 0, 1 << 30),
        "matrix_zero.mp4": _matrix(*[0] * 9),
        "matrix_huge.mp4": _matrix(*[_LARGE] * 9),
        "avcc_zeroed.mp4": _replaced(f"{avc1}/avcC", lambda old: old[:8] + bytes(len(old) - 8)),
        "avcc_empty.mp4": _replaced(f"{avc1}/avcC", lambda old: edit.box(b"avcC", b"")),
        "avcc_removed.mp4": _replaced(f"{avc1}/avcC", lambda old: b""),
        "avcc_length_size_1.mp4": _replaced(f"{avc1}/avcC", lambda old: edit.put(old, 12, b"\xfc")),
        "tables_removed.mp4": _replaced(_STBL, lambda old: b""),
        "tracks_none.mp4": _replaced("moov/trak", lambda old: b""),
        "tracks_1500.mp4": _replaced("moov/trak", lambda old: 1500 * old),
        "nested_20000.mp4": _bytes(lambda: _nested(20_000)),
        "moov_twice.mp4": _bytes(lambda: clip() + clip()[_moov_start() :]),
        "moov_alone.mp4": _bytes(lambda: clip()[_moov_start() :]),
        "mdat_alone.mp4": _bytes(lambda: clip()[: _moov_start()]),
        "first_box_huge.mp4": _bytes(lambda: endless + clip()),
        "riff_sizes_huge.avi": _bytes(lambda: _avi(4, _HUGE)),
        "streams_65535.avi": _bytes(lambda: _avi(56, 65535)),
        "microseconds_0.avi": _bytes(lambda: _avi(32, 0)),
        "rate_0.avi": _bytes(lambda: _avi(_avi(32, 0).index(b"strh") + 32, 0)),
        "scale_0.mkv": _bytes(lambda: clip(".mkv").replace(scale, scale[:4] + bytes(3))),
    }


def _times(offsets: list[int]) -> bytes:
    """Overwrite the composition offsets of the samples with `offsets`, repeated."""
    data = clip()
    found = edit.find(data, f"{_STBL}/ctts")[-1]
    for index, at in enumerate(range(found.start + 20, found.end, 8)):
        data = edit.put(data, at, struct.pack(">I", offsets[index % len(offsets)]))
    return data


def _sample_sizes(size: int) -> bytes:
    found = edit.find(clip(), f"{_STBL}/stsz")[-1]
    count = (found.end - found.start - 20) // 4
    return edit.put(clip(), found.start + 20, struct.pack(">I", size) * count)


def _edits(count: int) -> bytes:
    entry = struct.pack(">IiI", 1, 0, 1 << 16)
    listing = struct.pack(">II", 0, count) + entry * count
    return edit.replace_box(clip(), "moov/trak/edts/elst", edit.box(b"elst", listing))


def _matrix(*values: int) -> Recipe:
    packed = struct.pack(">9i", *values)
    at = "moov/trak/tkhd"
    return _bytes(lambda: edit.put(clip(), edit.find(clip(), at)[-1].start + 48, packed))


def _replaced(path: str, change: Callable[[bytes], bytes]) -> Recipe:
    def make() -> bytes:
        found = edit.find(clip(), path)[-1]
        return edit.replace_box(clip(), path, change(clip()[found.start : found.end]))

    return _bytes(make)


def _moov_start() -> int:
    return edit.find(clip(), "moov")[0].start


def _nested(depth: int) -> bytes:
    whole = 8 * depth
    nested = b"".join(struct.pack(">I4s", whole - 8 * index, b"moov") for index in range(depth))
    return clip()[:32] + nested


def _avi(at: int, value: int) -> bytes:
    return edit.put(SOURCES["avi"](), at, struct.pack("<I", value))


# --- small files that cost much


def _bombs() -> dict[str, Recipe]:
    def uniform(samples: int) -> bytes:
        data = edit.patch(clip(), f"{_STBL}/stsz", 12, 1)
        for kind, offset in (("stsz", 16), ("stts", 16), ("stsc", 20)):
            data = edit.patch(data, f"{_STBL}/{kind}", offset, samples)
        return data

    def packed(size: int, declared: int) -> bytes:
        cmvd = struct.pack(">I", declared) + zlib.compress(bytes(size), 9)
        inner = edit.box(b"dcom", b"zlib") + edit.box(b"cmvd", cmvd)
        return clip()[:32] + edit.box(b"moov", edit.box(b"cmov", inner))

    def declared(make: Callable[[int], bytes], sides: Iterable[int], suffix: str) -> None:
        for side in sides:
            recipes[f"declared_{side}{suffix}"] = _bytes(partial(make, side))

    def hole(source: Source) -> Recipe:
        """Write a source and a GiB of zeros, which takes no room on the disk."""

        def write(path: Path, _: Random) -> None:
            path.write_bytes(source())
            os.truncate(path, 1 << 30)

        return write

    # Without x264's lookahead, which would hold 40 such pictures.
    fast = "preset=ultrafast tune=zerolatency threads=1"
    recipes = _clips(
        {"picture_8192x4320.mp4": {"size": (8192, 4320), "frames": 2, "encoder": fast}}
    )
    sides = (8192, 16000, 16384, 65520)
    vp9, mjpeg, ts = (SOURCES[name] for name in ("vp9_ivf", "mjpeg", "ts"))
    declared(lambda side: edit.resize_avc(clip(), side, side), (4096, *sides), ".mp4")
    declared(lambda side: edit.resize_vp9(vp9(), side, side), sides, ".vp9.ivf")
    declared(lambda side: edit.resize_jpeg(mjpeg(), side, side), sides, ".mjpeg.avi")
    declared(lambda side: material.gif(side, side, 20), sides, ".gif")
    declared(lambda side: edit.png(side, side, 8, 2, bytes(1000)), sides, ".png")
    track = ((f"{_STBL}/stsd/avc1", 32), ("moov/trak/tkhd", 84))
    return recipes | {
        "declared_65520x16.mp4": _bytes(lambda: edit.resize_avc(clip(), 65520, 16)),
        "declared_0_in_track.mp4": _fields(0, *track),
        "declared_65535_in_track.mp4": _fields(_HUGE, *track),
        "picture_16000.png": _bytes(lambda: edit.png(16000, 16000, 1, 0, bytes(2001 * 16000))),
        "samples_20_million.mp4": _bytes(partial(uniform, 20_000_000)),
        "samples_2_billion.mp4": _bytes(partial(uniform, _LARGE)),
        "packed_moov_100_mb.mp4": _bytes(partial(packed, 100_000_000, 100_000_000)),
        "packed_moov_2_gb_declared.mp4": _bytes(partial(packed, 1000, _LARGE)),
        "hole_of_zeros.mp4": hole(bytes),
        "hole_behind_a_clip.mp4": hole(clip),
        "hole_behind_a_stream.ts": hole(ts),
    }


# --- files that are not videos


def _not_video() -> dict[str, Recipe]:
    page = "<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
    noise = [_changed("mp4", lambda _, random, n=n: random.randbytes(n)) for n in (64, 5000)]
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
        "zip.mp4": _bytes(material.archive),
        "gzip.mp4": _bytes(lambda: gzip.compress(clip(), mtime=0)),
        "git_lfs_pointer.mp4": _text("version https://git-lfs.github.com/spec/v1\nsize 12345\n"),
        "ansi_art.txt": _text("\x1b[31mhello\x1b[0m\n" * 40),
        "sound.wav.mp4": _bytes(partial(sound, ".wav", "pcm_s16le")),
        "sound.mp3.mp4": _bytes(partial(sound, ".mp3", "libmp3lame")),
        "sound.aac.mp4": _bytes(partial(sound, ".aac", "aac")),
        "sound.mp4": _bytes(partial(sound, ".mp4", "aac")),
        "sound.mkv": _bytes(partial(sound, ".mkv", "aac")),
    }


def _no_file() -> dict[str, Recipe]:
    def link(target: str) -> Recipe:
        return lambda path, _: path.symlink_to(target)

    def unreadable(path: Path, _: Random) -> None:
        path.write_bytes(clip())
        path.chmod(0)

    def loop(path: Path, _: Random) -> None:
        path.with_name(f"{path.name}.other").symlink_to(path.name)
        path.symlink_to(f"{path.name}.other")

    return {
        "absent.mp4": lambda path, _: None,
        "absent:with_colon.mp4": lambda path, _: None,
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

# By kind, and the suffix that FFmpeg expects; each is also written as .mp4.
PLAYLISTS = {
    ("hls", ".m3u8"): (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n"
        "#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"
    ),
    ("hls_master", ".m3u8"): (
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=176x144\n{target}\n"
    ),
    ("ffconcat", ".ffconcat"): "ffconcat version 1.0\nfile '{target}'\n",
    ("dash", ".mpd"): (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000" '
        'width="176" height="144"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>\n"
    ),
    ("redirect", ".mp4"): "[Reference]\r\nRef1={target}\r\n",
}
_SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


def _playlists(port: int) -> dict[str, Recipe]:
    """Playlists of each kind and target."""
    url = f"http://127.0.0.1:{port}/clip.mp4"
    targets = {"inside": UNLISTED, "network": url, "passwd": "/etc/passwd"}

    def playlist(text: str, where: str) -> Recipe:
        def write(path: Path, _: Random) -> None:
            target = targets.get(where, path.parent.with_name(OUTSIDE))
            path.write_text(text.format(target=target))

        return write

    return {
        f"{kind}_{where}{suffix}": playlist(text, where)
        for (kind, expected), text in PLAYLISTS.items()
        for suffix in dict.fromkeys((".mp4", expected))
        for where in (*targets, "outside")
    } | {
        "sdp.mp4": _text(_SDP.format(port=port)),
        "sdp.sdp": _text(_SDP.format(port=port)),
        "rtsp.mp4": _text(f"RTSPtextrtsp://127.0.0.1:{port}/x\n"),
        "mp4_data_outside.mp4": lambda path, _: path.write_bytes(_elsewhere(path)),
    }


def _elsewhere(path: Path) -> bytes:
    """Return an mp4 whose samples are in a file outside the part, by a QuickTime alias."""
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
