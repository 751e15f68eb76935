"""The first stages, from videos to faces, as the workflow runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.config import Config
from unmask.tables import CROPPED, read_rows


def crop_parts(
    parts: Sequence[Path], out: Path, config: Config, workers: int = 1, shard: str = "faces.tar"
) -> dict[str, dict[str, Any]]:
    """Probe, sample and crop the videos of parts; return the row of each video's status.

    Args:
        parts: folders or archives.
        out: folder for `probe.parquet`, `frames.tar`, the shard, its index of the same name, and
            `cropped.parquet`.
        config: sections `limits`, `frames` and `faces` are used.
        workers: decoding processes.
        shard: path of the shard in `out`.
    """
    from unmask.faces.cropping import crop_shard
    from unmask.videos.extraction import write_stream
    from unmask.videos.probe import probe_shard

    out.mkdir(parents=True, exist_ok=True)
    probe, stream, faces = out / "probe.parquet", out / "frames.tar", out / shard
    probe_shard(parts, 0, 1, config.limits, probe)
    write_stream(parts, probe, config, workers, stream)
    videos = out / "cropped.parquet"
    crop_shard(stream, probe, config.faces, faces, faces.with_suffix(".parquet"), videos)
    return {row["video"]: row for row in read_rows(videos, CROPPED)}
