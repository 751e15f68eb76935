"""Identities: who each track of a shard shows, as a unit vector of a face recogniser.

The recogniser is SFace (Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face
Recognition", 2021) in OpenCV Zoo's quantised form: 128 numbers, compared by cosine similarity.
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
from unmask.faces.crops import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.faces.weights import SFACE, packaged_weights
from unmask.progress import track
from unmask.tables import FACES, IDENTITIES, read_table, write_rows

logger = logging.getLogger(__name__)

_FACES_PER_TRACK = 4


class FaceEmbedder:
    """SFace: an aligned face in, a unit vector of 128 numbers out."""

    def __init__(self, weights: Path) -> None:
        """Load the network.

        Raises:
            UnmaskError: OpenCV cannot read the file.
        """
        try:
            self._net = cv2.FaceRecognizerSF.create(str(weights), "")
        except cv2.error:
            raise UnmaskError(
                f"{weights}: OpenCV {cv2.__version__} cannot read it as SFace; {SFACE.install}"
            ) from None

    def __call__(
        self, crop: NDArray[np.uint8], landmarks: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Embed one face.

        Args:
            crop: RGB uint8 (h, w, 3).
            landmarks: float32 (5, 2), x y in pixels of the crop, in the order of `Detections`.

        Returns:
            float32 (128,) of length 1; None where the landmarks make no face.
        """
        # As FaceDetectorYN has it: a box and a score, which the alignment does not look at.
        row = np.concatenate([np.zeros(4), landmarks.reshape(-1), np.zeros(1)]).astype(np.float32)
        try:
            aligned = self._net.alignCrop(np.ascontiguousarray(crop[..., ::-1]), row)
            vector = np.asarray(self._net.feature(aligned), np.float32).reshape(-1)
        except cv2.error:
            return None
        length = float(np.linalg.norm(vector))
        return vector / np.float32(length) if np.isfinite(length) and length > 0 else None


def create_embedder() -> FaceEmbedder:
    """Create the recogniser.

    Raises:
        UnmaskError: its weights are not there or not the right ones.
    """
    return FaceEmbedder(packaged_weights(SFACE, "results/identities"))


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
    vectors = []
    chosen = _best_faces(faces)
    for face in chosen.itertuples():
        crop = decode_jpeg(reader.read(face.shard, face.offset, face.size), face.key)
        vector = embedder(crop, np.asarray(face.landmarks, np.float32))
        if vector is not None:
            vectors.append(vector)
    if not vectors:
        detail = "no landmarks" if chosen.empty else "its landmarks make no face"
        return {"detail": detail, "faces": 0}
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
    """Return the sharpest crop with landmarks of each stretch of a track."""
    usable = faces[[_are_landmarks(one) for one in faces["landmarks"]]].sort_values("frame")
    stretch = np.arange(len(usable)) * _FACES_PER_TRACK // max(1, len(usable))
    return usable.loc[usable.groupby(stretch)["sharpness"].idxmax()]


def _are_landmarks(values: Any) -> bool:
    return values is not None and len(values) == 10 and bool(np.isfinite(values).all())
