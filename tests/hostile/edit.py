"""Edit media files by hand: boxes of an mp4, fields of codec headers."""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes between the start of a box and the boxes inside it, where it has any.
_CHILDREN_AT = {b"stsd": 16, b"avc1": 86, b"meta": 12, b"dref": 16} | dict.fromkeys(
    [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"mvex", b"moof"], 8
)


@dataclass(frozen=True)
class Box:
    """Where one box lies.

    Attributes:
        kind: its four letters.
        start: of its header, in bytes from the start of the file.
        end: exclusive.
    """

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes side by side in `data[start:end]`."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield Box(kind, start, start + size)
        start += size


def find(data: bytes, path: str) -> list[Box]:
    """Return the first box at `path` ("moov/trak/tkhd") and, before it, those around it."""
    found: list[Box] = []
    start, end = 0, len(data)
    for kind in path.encode().split(b"/"):
        box = next(box for box in boxes(data, start, end) if box.kind == kind)
        found.append(box)
        start, end = box.start + _CHILDREN_AT.get(kind, 8), box.end
    return found


def put(data: bytes, at: int, value: bytes) -> bytes:
    """Return `data` with the bytes at `at` overwritten."""
    return data[:at] + value + data[at + len(value) :]


def patch(data: bytes, path: str, offset: int, value: int, width: int = 4) -> bytes:
    """Overwrite a big-endian field of the box at `path`.

    Args:
        data: the file.
        path: of the box.
        offset: of the field, in bytes from the start of the box's header.
        value: unsigned.
        width: of the field in bytes.
    """
    return put(data, find(data, path)[-1].start + offset, value.to_bytes(width, "big"))


def splice(data: bytes, path: str, start: int, end: int, payload: bytes) -> bytes:
    """Replace bytes inside the box at `path`, and correct the sizes of it and those around it.

    Args:
        data: a file with its moov at the end: chunk offsets are not corrected.
        path: of the box.
        start: of what is replaced, in bytes from the start of the box's header.
        end: exclusive.
        payload: what comes instead, of any length.
    """
    around = find(data, path)
    at = around[-1].start
    grown = len(payload) - (end - start)
    data = data[: at + start] + payload + data[at + end :]
    for box in around:
        data = put(data, box.start, struct.pack(">I", box.end - box.start + grown))
    return data


def replace_box(data: bytes, path: str, payload: bytes) -> bytes:
    """Replace the whole box at `path` by `payload`, and correct the sizes around it."""
    parent, _, _ = path.rpartition("/")
    box = find(data, path)[-1]
    outer = find(data, parent)[-1]
    return splice(data, parent, box.start - outer.start, box.end - outer.start, payload)


def box(kind: bytes, payload: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


class _Bits:
    """Bits of an H.264 header, read and written."""

    def __init__(self, data: bytes = b"") -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def take(self, count: int) -> str:
        self.at += count
        return self.text[self.at - count : self.at]

    def golomb(self) -> str:
        """Take one Exp-Golomb code."""
        zeros = self.text.index("1", self.at) - self.at
        return self.take(2 * zeros + 1)


def _golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def resize_sps(sps: bytes, width: int, height: int) -> bytes:
    """Let a sequence parameter set (ITU-T H.264, 7.3.2.1.1) declare another size.

    Args:
        sps: the NAL unit, progressive, of the profiles that x264 writes for 4:2:0 in 8 bits.
        width: a multiple of 16.
        height: a multiple of 16.
    """
    bits = _Bits(sps[:1] + re.sub(rb"\0\0\x03", b"\0\0", sps[1:]))
    kept = bits.take(32)
    kept += bits.golomb()  # seq_parameter_set_id
    if sps[1] == 100:  # High
        kept += "".join(bits.golomb() for _ in range(3)) + bits.take(2)
    kept += bits.golomb()  # log2_max_frame_num_minus4
    order = bits.golomb()  # pic_order_cnt_type
    kept += order
    if order == _golomb(0):
        kept += bits.golomb()
    kept += bits.golomb() + bits.take(1)  # max_num_ref_frames, gaps
    bits.golomb(), bits.golomb()
    kept += _golomb(width // 16 - 1) + _golomb(height // 16 - 1)
    kept += bits.take(2)  # frame_mbs_only_flag, direct_8x8_inference_flag
    if bits.take(1) == "1":
        [bits.golomb() for _ in range(4)]
    rest = bits.text[bits.at :].rstrip("0")
    text = kept + "0" + rest
    text += "0" * (-len(text) % 8)
    raw = int(text, 2).to_bytes(len(text) // 8, "big")
    return raw[:1] + re.sub(rb"\0\0(?=[\0-\x03])", b"\0\0\x03", raw[1:])


def resize_avc(data: bytes, width: int, height: int) -> bytes:
    """Let every header of an H.264 mp4 declare another size: track, sample entry and SPS."""
    path = "moov/trak/mdia/minf/stbl/stsd/avc1"
    config = find(data, f"{path}/avcC")[-1]
    length = int.from_bytes(data[config.start + 14 : config.start + 16], "big")
    sps = resize_sps(data[config.start + 16 : config.start + 16 + length], width, height)
    data = splice(data, f"{path}/avcC", 14, 16 + length, struct.pack(">H", len(sps)) + sps)
    data = patch(data, path, 32, (width << 16) + height)
    return patch(patch(data, "moov/trak/tkhd", 84, width << 16), "moov/trak/tkhd", 88, height << 16)


def resize_vp9(ivf: bytes, width: int, height: int) -> bytes:
    """Let the first key frame of a VP9 stream in IVF declare another size."""
    frame = 32 + 12
    length = int.from_bytes(ivf[32:36], "little")
    bits = f"{int.from_bytes(ivf[frame : frame + length], 'big'):0{8 * length}b}"
    at = 8 + 24 + 4  # marker to error_resilient_mode, sync code, colour of profile 0
    bits = bits[:at] + f"{width - 1:016b}{height - 1:016b}" + bits[at + 32 :]
    ivf = put(ivf, frame, int(bits, 2).to_bytes(length, "big"))
    return put(ivf, 12, struct.pack("<HH", width, height))


def resize_vp8(ivf: bytes, width: int, height: int) -> bytes:
    """Let the first key frame of a VP8 stream in IVF declare another size, below 16384."""
    size = struct.pack("<HH", width, height)
    return put(put(ivf, 32 + 12 + 6, size), 12, size)


def resize_jpeg(data: bytes, width: int, height: int) -> bytes:
    """Let every baseline JPEG inside `data` declare another size."""
    size = struct.pack(">HH", height, width)
    return re.sub(rb"(?<=\xff\xc0\0\x11\x08)....", lambda _: size, data, flags=re.DOTALL)


def resize_mpeg2(data: bytes, width: int, height: int) -> bytes:
    """Let every sequence header of MPEG-2 declare another size, below 4096."""
    size = ((width << 12) + height).to_bytes(3, "big")
    return re.sub(rb"(?<=\0\0\x01\xb3)...", lambda _: size, data, flags=re.DOTALL)


def png(width: int, height: int, bits: int, colour: int, raw: bytes) -> bytes:
    """Return a PNG of `raw` scan lines, whatever their number."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        crc = zlib.crc32(kind + payload)
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(raw, 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
