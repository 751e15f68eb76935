"""The values of the tables' categorical columns: statuses, labels, roles and verdicts."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of a video. Every video of a `metadata.json` ends with exactly one of these."""

    OK = "ok"  # at least one face crop is in the shard
    BAD_METADATA = "bad_metadata"  # its entry in metadata.json does not follow DFDC's schema
    UNSAFE_NAME = "unsafe_name"  # its name points outside the part; it is never opened
    DUPLICATE = "duplicate"  # an earlier part holds the same video, which is used instead
    MISSING = "missing"  # metadata.json names it, but there is no such file
    UNREADABLE = "unreadable"  # no demuxer can open it: truncated, empty or not a video
    NO_VIDEO_STREAM = "no_video_stream"  # it was opened but holds no video stream
    DECODE_ERROR = "decode_error"  # it was opened, but no frame could be decoded
    CRASHED = "crashed"  # its decoder crashed the process
    TIMEOUT = "timeout"  # it took longer than limits.seconds
    TOO_LARGE = "too_large"  # its decoder needed more memory than limits.memory_mb
    NO_FACE = "no_face"  # no face was found in any sampled frame
    FAILED = "failed"  # an unexpected error; the job's log has the traceback


class Label(StrEnum):
    """The two labels of DFDC's `metadata.json`."""

    REAL = "REAL"
    FAKE = "FAKE"


class Role(StrEnum):
    """What the model of one fold uses a video for."""

    TRAIN = "train"  # computing gradients
    VAL = "val"  # choosing checkpoint, threshold and calibration
    TEST = "test"  # reporting results; nothing is ever chosen on it


class PredictionSource(StrEnum):
    """Where the out-of-fold prediction of a video comes from."""

    MODEL = "model"  # models that were neither trained nor chosen on the video
    PRIOR = "prior"  # the share of FAKE, because the video has no face
    NONE = "none"  # no prediction: the video is in no split, or its fold has no model


class Verdict(StrEnum):
    """What the comparison with its original says about one face track of a FAKE video."""

    ALTERED = "altered"  # the face differs from the original's
    UNCERTAIN = "uncertain"  # no face in the video differs: hardly altered, or only its sound is
    UNSWAPPED = "unswapped"  # this face does not differ, but another one in the video does
    UNKNOWN = "unknown"  # there is no original, or none of its crops can be compared
