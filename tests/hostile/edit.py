"""Edit media files by hand: boxes of an mp4, fields of codec headers."""

import re
import struct
import zlib
from typing import NamedTuple

# Bytes between the start of a box and the boxes inside it.
_CHILDREN_AT = {b"stsd": 16, b"avc1": 86, b"meta": 12, b"dref": 16}


class Box(NamedTuple):
    """Position of a box: its first byte, and the first byte after it."""

    start: int
    end: int


def find(data: bytes, path: str) -> list[Box]:
    """Return the first box at `path` ("moov/trak/tkhd"), preceded by the boxes that contain it."""
    found: list[Box] = []
    at = 0
    for wanted in path.encode().split(b"/"):
        size, kind = struct.unpack_from(">I4s", data, at)
        while kind != wanted:
            at += size
            size, kind = struct.unpack_from(">I4s", data, at)
        found.append(Box(at, at + size))
        at += _CHILDREN_AT.get(kind, 8)
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
    """Replace bytes of the box at `path`, and correct its size and those of its parents.

    Args:
        data: a file with its moov at the end, because chunk offsets are not corrected.
        path: of the box.
        start: first replaced byte, counted from the start of the box's header.
        end: exclusive.
        payload: the replacement, of any length.
    """
    boxes = find(data, path)
    at = boxes[-1].start
    data = data[: at + start] + payload + data[at + end :]
    growth = len(payload) - (end - start)
    for box in boxes:
        data = put(data, box.start, struct.pack(">I", box.end - box.start + growth))
    return data


def replace_box(data: bytes, path: str, payload: bytes) -> bytes:
    """Replace the whole box at `path` by `payload`, and correct the sizes of its parents."""
    *_, parent, box = find(data, path)
    start, end = box.start - parent.start, box.end - parent.start
    return splice(data, path.rpartition("/")[0], start, end, payload)


def box(kind: bytes, payload: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def _golomb(value: int) -> str:
    """Return the Exp-Golomb code of a number as a string of bits."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def resize_sps(sps: bytes, width: int, height: int) -> bytes:
    """Change the size that a sequence parameter set declares (ITU-T H.264, 7.3.2.1.1).

    Args:
        sps: the NAL unit, progressive, of the profiles that x264 writes for 4:2:0 in 8 bits.
        width: a multiple of 16.
        height: a multiple of 16.
    """
    bits = "".join(f"{byte:08b}" for byte in re.sub(rb"\0\0\x03", b"\0\0", sps))

    def skip(at: int, codes: int) -> int:
        """Return the position after some Exp-Golomb codes."""
        for _ in range(codes):
            at = 2 * bits.index("1", at) - at + 1
        return at

    at = skip(32, 1)  # after profile and level: seq_parameter_set_id
    if sps[1] == 100:  # High: chroma_format_idc, two bit depths, two flags
        at = skip(at, 3) + 2
    at = skip(at, 1)  # log2_max_frame_num_minus4
    order_type_0 = bits[at] == "1"
    at = skip(at, 3 if order_type_0 else 2) + 1  # picture order, max_num_ref_frames, gaps flag
    size, flags = at, skip(at, 2)
    end = flags + 3  # frame_mbs_only_flag, direct_8x8_inference_flag, frame_cropping_flag
    rest = bits[skip(end, 4 if bits[end - 1] == "1" else 0) :].rstrip("0")
    declared = _golomb(width // 16 - 1) + _golomb(height // 16 - 1)
    text = bits[:size] + declared + bits[flags : flags + 2] + "0" + rest
    text += "0" * (-len(text) % 8)
    raw = int(text, 2).to_bytes(len(text) // 8, "big")
    return raw[:1] + re.sub(rb"\0\0(?=[\0-\x03])", b"\0\0\x03", raw[1:])


def resize_avc(data: bytes, width: int, height: int) -> bytes:
    """Change the size in every header of an H.264 mp4: track, sample entry and SPS."""
    path = "moov/trak/mdia/minf/stbl/stsd/avc1"
    config = find(data, f"{path}/avcC")[-1]
    length = int.from_bytes(data[config.start + 14 : config.start + 16], "big")
    sps = resize_sps(data[config.start + 16 : config.start + 16 + length], width, height)
    data = splice(data, f"{path}/avcC", 14, 16 + length, struct.pack(">H", len(sps)) + sps)
    data = patch(data, path, 32, (width << 16) + height)
    return patch(patch(data, "moov/trak/tkhd", 84, width << 16), "moov/trak/tkhd", 88, height << 16)


def resize_vp9(ivf: bytes, width: int, height: int) -> bytes:
    """Change the size that the first key frame of a VP9 stream in IVF declares."""
    frame = 32 + 12
    length = int.from_bytes(ivf[32:36], "little")
    bits = f"{int.from_bytes(ivf[frame : frame + length], 'big'):0{8 * length}b}"
    at = 8 + 24 + 4  # marker to error_resilient_mode, sync code, colour of profile 0
    bits = bits[:at] + f"{width - 1:016b}{height - 1:016b}" + bits[at + 32 :]
    ivf = put(ivf, frame, int(bits, 2).to_bytes(length, "big"))
    return put(ivf, 12, struct.pack("<HH", width, height))


def resize_jpeg(data: bytes, width: int, height: int) -> bytes:
    """Change the size that every baseline JPEG inside `data` declares."""
    size = struct.pack(">HH", height, width)
    return re.sub(rb"(?<=\xff\xc0\0\x11\x08)....", lambda _: size, data, flags=re.DOTALL)


def png(width: int, height: int, bits: int, colour: int, raw: bytes) -> bytes:
    """Return a PNG that holds the scan lines `raw`, whatever their number."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        crc = zlib.crc32(kind + payload)
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(raw, 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
