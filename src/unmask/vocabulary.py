"""The vocabulary of the tables: statuses, labels, roles and verdicts."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of a video. Every video of a `metadata.json` ends with exactly one of these."""

    OK = "ok"  # at least one face crop is in the shard
    BAD_METADATA = "bad_metadata"  # its entry in metadata.json is not what DFDC's schema says
    UNSAFE_NAME = "unsafe_name"  # its name points outside the part; never opened
    DUPLICATE = "duplicate"  # the same video stands in an earlier part and is used from there
    MISSING = "missing"  # named in metadata.json, but no such file
    UNREADABLE = "unreadable"  # no demuxer can open it: truncated, empty, not a video
    NO_VIDEO_STREAM = "no_video_stream"  # opened, but holds no picture
    DECODE_ERROR = "decode_error"  # opened, but not one frame could be decoded
    CRASHED = "crashed"  # its decoder took the process down
    TIMEOUT = "timeout"  # not done in limits.seconds
    TOO_LARGE = "too_large"  # its decoder asked for more than limits.memory_mb
    NO_FACE = "no_face"  # decoded, but no face was found in any sampled frame
    FAILED = "failed"  # the code met something it does not know; the job's log has the traceback


class Label(StrEnum):
    """The two labels of DFDC's `metadata.json`."""

    REAL = "REAL"
    FAKE = "FAKE"


class Role(StrEnum):
    """What a video is used for by the model of one fold."""

    TRAIN = "train"  # gradients
    VAL = "val"  # checkpoint, threshold and calibration are chosen on it
    TEST = "test"  # figures are reported on it; nothing is ever chosen on it


class Answered(StrEnum):
    """Who answers a video of the ledger in an experiment's evaluation."""

    MODEL = "model"  # a model that was neither trained nor chosen on it
    PRIOR = "prior"  # nobody saw a face: the share of FAKE is answered
    NOBODY = "nobody"  # it is in no split (see its status), or no model reports on its fold


class Verdict(StrEnum):
    """What a comparison with its original says of one person in a FAKE video."""

    ALTERED = "altered"  # the face differs from the original's
    UNCERTAIN = "uncertain"  # nobody in the video differs: hardly altered, or only its sound
    UNSWAPPED = "unswapped"  # this face does not differ, another one in the video does
    UNKNOWN = "unknown"  # no original, or no pictures of it that can be compared
