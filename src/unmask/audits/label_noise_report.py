"""Report of the label audits: counts by verdict, a histogram, and pairs to look at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from unmask.audits.label_noise import (
    MIN_CHANGED_SHARE,
    aligned_pair,
    compare_crops,
    face_box,
    match_original,
)
from unmask.config import Config
from unmask.faces.shards import ShardReader
from unmask.files import write_json
from unmask.report.examples import spread
from unmask.report.style import COLORS, GRAY, create_axes, draw_pictures, save
from unmask.splits.roles import role_of
from unmask.tables import FACES, NOISE, SPLITS, read_table, read_tables
from unmask.vocabulary import Label, Role, Verdict

logger = logging.getLogger(__name__)

_COLORS = {
    Verdict.ALTERED: COLORS[Label.FAKE],
    Verdict.UNSWAPPED: COLORS[Label.REAL],
    Verdict.UNCERTAIN: "#56B4E9",
}
_ORIGINAL = ["original_part", "original"]
_PAIRS = 8
_BRIGHTEST = 0.4  # the 1 - SSIM that is drawn brightest


def report_labels(
    noise: list[Path],
    indices: list[Path],
    shards: Path,
    splits: Path,
    config: Config,
    output: Path,
) -> None:
    """Write `label_noise.json`, `label_noise.svg` and `pairs.png` into `output`.

    Args:
        noise: the label audits of all shards.
        indices: face indices of all shards.
        shards: folder of face shards.
        splits: the split table.
        config: sections `audits` and `split` are used.
        output: the folder.
    """
    tracks = read_tables(noise, NOISE)
    faces = read_tables(indices, FACES, columns=["part", "video", "track"])
    output.mkdir(parents=True, exist_ok=True)
    counts = count_verdicts(tracks, faces, read_table(splits, SPLITS), config)
    write_json(counts, output / "label_noise.json")
    save(draw_changes(tracks), output / "label_noise.svg")
    save(draw_pairs(choose_pairs(tracks), indices, shards), output / "pairs.png")
    logger.info("%s", counts["verdicts"])


def count_verdicts(
    tracks: pd.DataFrame, faces: pd.DataFrame, splits: pd.DataFrame, config: Config
) -> dict[str, Any]:
    """Return videos, tracks and faces per verdict, and the training faces that the policy changes.

    Args:
        tracks: the label audits.
        faces: columns `part`, `video` and `track` of the face index.
        splits: the split table.
        config: sections `audits` and `split` are used.
    """
    judged = faces.merge(tracks[["part", "video", "track", "verdict"]])
    judged = judged.merge(splits[["part", "video", "label", "fold"]])
    verdicts = {
        str(verdict): {
            "videos": len(rows[["part", "video"]].drop_duplicates()),
            "tracks": len(rows),
            "faces": int((judged["verdict"] == verdict).sum()),
        }
        for verdict in Verdict
        for rows in [tracks[tracks["verdict"] == verdict]]
    }
    policy, count = config.audits.label_noise, config.split.folds
    doubted = judged["verdict"].isin([Verdict.UNSWAPPED, Verdict.UNCERTAIN])
    folds = {}
    for fold in range(count):
        trained = np.array([role_of(of, fold, count) == Role.TRAIN for of in judged["fold"]], bool)
        affected = int((doubted & trained).sum())
        folds[str(fold)] = {
            "fake_faces": int((trained & (judged["label"] == Label.FAKE)).sum()),
            "dropped": affected if policy == "drop" else 0,
            "softened": affected if policy == "soft" else 0,
        }
    return {
        "policy": policy,
        "soft_target": config.audits.soft_target if policy == "soft" else None,
        "min_changed_share": MIN_CHANGED_SHARE,
        "verdicts": verdicts,
        "training_faces_by_fold": folds,
    }


def draw_changes(tracks: pd.DataFrame) -> Figure:
    """Draw a histogram of the share of changed pixels of tracks, by verdict."""
    unknown = int((tracks["verdict"] == Verdict.UNKNOWN).sum())
    title = f"FAKE tracks compared with their originals; {unknown} not comparable"
    figure, axes = create_axes(title, "share of changed face pixels", "FAKE tracks", (6.5, 3.8))
    known = tracks[tracks["changed"].notna()]
    groups = [known.loc[known["verdict"] == verdict, "changed"] for verdict in _COLORS]
    # From 16 frames of about 2,000 face pixels, smaller shares cannot be measured.
    bins = np.concatenate([[0], np.geomspace(1e-3, 1, 31)])
    axes.hist(
        [group.clip(lower=5e-4) for group in groups],
        bins=list(bins),
        stacked=True,
        color=list(_COLORS.values()),
        label=[f"{verdict} ({len(group)})" for verdict, group in zip(_COLORS, groups, strict=True)],
    )
    axes.axvline(MIN_CHANGED_SHARE, color=GRAY, linestyle=":", label="threshold of altered")
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_xlim(0, 1)
    axes.legend()
    return figure


def choose_pairs(tracks: pd.DataFrame) -> pd.DataFrame:
    """Return audited tracks to show: of each verdict, from different originals if possible."""
    known = tracks[tracks["frames"] > 0].sort_values(["part", "video", "track"])
    quota = _PAIRS // 4
    chosen: list[pd.DataFrame] = []
    for verdict in (Verdict.UNSWAPPED, Verdict.UNCERTAIN, Verdict.ALTERED):
        rows = known[known["verdict"] == verdict]
        room = _PAIRS - sum(map(len, chosen)) if verdict == Verdict.ALTERED else quota
        one_each = rows.drop_duplicates(_ORIGINAL)
        pool = one_each if len(one_each) >= room else rows
        chosen.append(spread(pool.sort_values("changed", kind="stable"), room))
    return pd.concat(chosen)


def draw_pairs(chosen: pd.DataFrame, indices: list[Path], shards: Path) -> Figure:
    """Draw original, fake and difference of audited tracks side by side."""
    sides = [chosen[names].to_numpy() for names in (["part", "video"], _ORIGINAL)]
    names = pd.DataFrame(np.concatenate(sides), columns=["part", "video"])
    tracks = read_tables(indices, FACES, matching=names).groupby(["part", "video", "track"])
    reader = ShardReader(shards)
    pictures: list[NDArray[Any] | None] = []
    captions: list[str] = []
    boxes: list[dict[Any, Any]] = []
    for row in chosen.to_dict("records"):
        video, original = row["video"], row["original"]
        faces = tracks.get_group((row["part"], video, row["track"])).to_dict("records")
        place = (row["original_part"], original, row["original_track"])
        others = tracks.get_group(place).to_dict("records")
        # Without the frame rate, times must be closer than the audit requires below 30 per second.
        pairs = match_original(faces, {0: others}, fps=None)
        if not pairs:
            continue
        fake, real = pairs[len(pairs) // 2]
        fake_crop, real_crop = aligned_pair(fake, real, reader)
        pictures += [real_crop, fake_crop, compare_crops(fake, real, reader)[1]]
        captions += [f"{original}\nREAL", f"{video}\nFAKE, {row['verdict']}"]
        captions.append(f"1 - SSIM\n{row['changed']:.1%} of the face changed")
        boxes.append(fake)
    title = "Originals, fakes and their differences"
    figure, panels = draw_pictures(title, pictures, captions, across=3, cell=(2.1, 2.5))
    for axes, fake in zip(panels[2::3], boxes, strict=True):
        (picture,) = axes.images
        picture.set(cmap="magma", clim=(0, _BRIGHTEST))
        x0, y0, x1, y1 = face_box(fake) * picture.get_size()[0]
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="w", lw=0.8))
    return figure
