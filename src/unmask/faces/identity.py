"""Identities: who each track of a shard shows, as a unit vector of a face recogniser.

The recogniser is SFace (Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition", 2021) in OpenCV Zoo's quantised form: 128 numbers, compared by cosine similarity.

Faces are aligned by landmarks that YuNet finds in the crop itself. Those of the face index are
interpolated between the frames that the detector looked at, and found in a smaller picture: on 12
real clips, sampled at 8 frames, the faces of one clip were 0.63 alike by them and 0.84 by those of
the crop. It also serves detectors that find no landmarks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unmask.errors import UnmaskError
from unmask.faces.detectors import YuNet
from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.faces.weights import SFACE, YUNET, packaged_weights
from unmask.progress import track
from unmask.tables import FACES, IDENTITIES, read_table, write_rows

logger = logging.getLogger(__name__)

_FACES_PER_TRACK = 4
# The crop was cut around a face, so a doubtful one in its middle is that face.
_MIN_SCORE = 0.5


class FaceEmbedder:
    """YuNet and SFace: a crop in, a unit vector of 128 numbers out."""

    def __init__(self, landmarks: Path, weights: Path) -> None:
        """Load the networks.

        Args:
            landmarks: YuNet's weights.
            weights: SFace's.

        Raises:
            UnmaskError: OpenCV cannot read a file.
        """
        self._detector = YuNet(_MIN_SCORE, landmarks)
        try:
            self._recogniser = cv2.FaceRecognizerSF.create(str(weights), "")
        except cv2.error:
            raise UnmaskError(
                f"{weights}: OpenCV {cv2.__version__} cannot read it as SFace; {SFACE.install}"
            ) from None

    def __call__(self, crop: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Embed the face in the middle of a crop.

        Args:
            crop: RGB uint8 (h, w, 3).

        Returns:
            float32 (128,) of length 1; None where no face is in the middle.
        """
        picture = np.ascontiguousarray(crop[..., ::-1])
        found = self._detector(picture)
        middle = np.array(crop.shape[1::-1], np.float32) / 2
        around = (found.boxes[:, :2] <= middle) & (middle <= found.boxes[:, 2:])
        landmarks = found.where(np.asarray(around.all(axis=1), np.bool_)).landmarks
        if not len(landmarks):
            return None
        # As FaceDetectorYN has it: a box and a score, which the alignment does not look at.
        row = np.concatenate([np.zeros(4), landmarks[0].reshape(-1), np.zeros(1)])
        aligned = self._recogniser.alignCrop(picture, row.astype(np.float32))
        vector = np.asarray(self._recogniser.feature(aligned), np.float32).reshape(-1)
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if np.isfinite(length) and length > 0 else None


def create_embedder() -> FaceEmbedder:
    """Create the recogniser.

    Raises:
        UnmaskError: weights are not there or not the right ones.
    """
    asked_by = "results/identities"
    return FaceEmbedder(packaged_weights(YUNET, asked_by), packaged_weights(SFACE, asked_by))


def embed_shard(shard: Path, index: Path, output: Path) -> None:
    """Write who each track of a shard shows.

    Args:
        shard: the tar of crops.
        index: its face index.
        output: one row per track, see `unmask.tables.IDENTITIES`. A track that cannot be embedded
            has no embedding, and a detail that says why.

    Raises:
        UnmaskError: the weights or the shard cannot be read.
    """
    cv2.setNumThreads(1)
    embedder, reader = create_embedder(), ShardReader(shard.parent)
    tracks = read_table(index, FACES).groupby(["part", "video", "track"], sort=True)
    rows = [
        dict(zip(("part", "video", "track"), key, strict=True)) | _identity(faces, reader, embedder)
        for key, faces in track(tracks, "tracks", tracks.ngroups)
    ]
    write_rows(rows, IDENTITIES, output)
    without = sum(row["faces"] == 0 for row in rows)
    logger.info("%d tracks in %s, %d without an embedding", len(rows), output, without)


def _identity(faces: pd.DataFrame, reader: ShardReader, embedder: FaceEmbedder) -> dict[str, Any]:
    """Return the columns of one track: its faces' mean vector, and how alike they are."""
    chosen = _best_faces(faces)
    vectors = []
    for key, shard, offset, size in zip(
        chosen["key"], chosen["shard"], chosen["offset"], chosen["size"], strict=True
    ):
        vector = embedder(decode_jpeg(reader.read(shard, int(offset), int(size)), key))
        if vector is not None:
            vectors.append(vector)
    if not vectors:
        return {"detail": f"no landmarks in {len(chosen)} crops", "faces": 0}
    mean = np.mean(vectors, axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:
        return {"detail": "its faces cancel out", "faces": 0}
    # Of n unit vectors the mean's squared length is (1 + (n - 1) c) / n with c their mean cosine.
    count = len(vectors)
    alike = (count * length**2 - 1) / (count - 1) if count > 1 else None
    embedding = (mean / length).astype(np.float32)
    return {"detail": None, "faces": count, "consistency": alike, "embedding": embedding}


def _best_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the sharpest crop of each stretch of a track."""
    ordered = faces.sort_values("frame", ignore_index=True)
    stretch = np.arange(len(ordered)) * _FACES_PER_TRACK // len(ordered)
    return ordered.loc[ordered.groupby(stretch)["sharpness"].idxmax()]
