"""HDR: PQ and HLG pictures of BT.2020 tone-mapped to SDR of BT.709.

FFmpeg's `tonemap` filter takes linear light, which only `zscale` produces, and PyAV's wheels have
neither `zscale` nor `libplacebo`. swscale converts HDR as well, but prepares for 25 seconds per
video. So the curves of the standards are tabulated here.

The tone curve is the EETF of Report ITU-R BT.2390-11, 5.4, from 1,000 cd/m² (the nominal peak of
HLG, and the usual one of PQ) to the 203 cd/m² of HDR reference white (Report ITU-R BT.2408-7),
applied to R, G and B. Light below 87 cd/m², which is most of a face, keeps its brightness.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PEAK, _WHITE = 1000.0, 203.0  # cd/m²
_UNSPECIFIED = 2  # of AVColorSpace
_GAMMA = 2.4  # of an SDR display (ITU-R BT.1886)
_CODES = 65536
_BT2020_LUMA = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
# Linear light from BT.2020 to BT.709 primaries (Report ITU-R BT.2407-0, 2.2).
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
# Rows converted at a time; those of a 4K picture then take 10 MB.
_ROWS = 64


def is_wide(frame: VideoFrame) -> bool:
    """Return whether a picture has an HDR transfer curve or the primaries of BT.2020."""
    is_hdr = frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
    return is_hdr or frame.color_primaries == ColorPrimaries.BT2020


def to_sdr(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """Return a picture for which `is_wide`, scaled, as SDR of BT.709 in 8 bits of R, G and B."""
    matrix = {} if frame.colorspace != _UNSPECIFIED else {"src_colorspace": Colorspace.BT2020}
    signal = frame.reformat(width, height, "rgb48le", interpolation="BICUBIC", threads=1, **matrix)
    codes = np.asarray(signal.to_ndarray(), np.uint16)
    sdr = np.empty(codes.shape, np.uint8)
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        sdr[rows] = _convert(codes[rows], frame.color_trc)
    return VideoFrame.from_ndarray(sdr, format="rgb24")


def _convert(codes: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Return uint8 (height, width, 3) from codes of the same shape."""
    light = _white_by_code(transfer)[codes]
    if transfer == ColorTrc.ARIB_STD_B67:
        # The OOTF of HLG (ITU-R BT.2100-2, table 5): brightness depends on all three colours.
        luma = cv2.transform(light, _BT2020_LUMA)
        light = _white_by_root()[_root(light * cv2.pow(luma, 0.2)[:, :, np.newaxis])]
    return _code_by_root()[_root(np.asarray(cv2.transform(light, _TO_BT709), np.float32))]


def _root(light: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the fourth root of light as an index: as fine in shadows as in highlights."""
    inside = np.clip(light, 0, 1)
    return np.asarray(cv2.sqrt(cv2.sqrt(inside)) * np.float32(_CODES - 1), np.uint16)


@lru_cache
def _white_by_code(transfer: int) -> NDArray[np.float32]:
    """Return float32 (65536,): light relative to SDR white; for HLG, scene light of 0 to 1."""
    signal = np.linspace(0, 1, _CODES)
    if transfer == ColorTrc.SMPTE2084:
        return _tone_mapped(_pq_light(signal)).astype(np.float32)
    if transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        linear = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        return linear.astype(np.float32)
    return np.asarray(signal**_GAMMA, np.float32)


@lru_cache
def _white_by_root() -> NDArray[np.float32]:
    return _tone_mapped(_PEAK * np.linspace(0, 1, _CODES) ** 4).astype(np.float32)


@lru_cache
def _code_by_root() -> NDArray[np.uint8]:
    light = np.linspace(0, 1, _CODES) ** 4
    return np.rint(255 * light ** (1 / _GAMMA)).astype(np.uint8)


def _pq_light(signal: Array) -> Array:
    """Return cd/m² of PQ signals of 0 to 1 (SMPTE ST 2084)."""
    power = signal ** (4096 / (2523 * 128))
    linear = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return np.asarray(10_000 * linear ** (16384 / 2610), np.float64)


def _pq_signal(light: Array) -> Array:
    """Return PQ signals of 0 to 1 of cd/m²; the inverse of `_pq_light`."""
    power = (light / 10_000) ** (2610 / 16384)
    ratio = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return np.asarray(ratio ** (2523 * 128 / 4096), np.float64)


def _tone_mapped(light: Array) -> Array:
    """Return light relative to SDR white, 0 to 1, of cd/m² on an HDR display."""
    peak, white = _pq_signal(np.array([_PEAK, _WHITE]))
    signal = np.minimum(_pq_signal(light) / peak, 1)
    top = white / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee
    curve += (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    return _pq_light(np.where(signal < knee, signal, curve) * peak) / _WHITE
