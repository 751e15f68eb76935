"""What the label audits say: counts, their distribution, and pairs to look at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unmask.audits.label_noise import MIN_CHANGED_SHARE, aligned_pair, compare_crops, match_original
from unmask.config import Config
from unmask.faces.shards import ShardReader
from unmask.files import write_json
from unmask.report.style import save
from unmask.splits.roles import role_of
from unmask.tables import FACES, NOISE, SPLITS, read_table, read_tables
from unmask.vocabulary import Label, Role, Verdict

logger = logging.getLogger(__name__)

_COLORS = {
    Verdict.ALTERED: "#D55E00",
    Verdict.UNSWAPPED: "#0072B2",
    Verdict.UNCERTAIN: "#56B4E9",
}
_PAIRS = 8
# 1 - SSIM that is drawn brightest.
_BRIGHTEST = 0.4


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
        config: its `audits` and `split`.
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
    """Return tracks, faces and videos per verdict, and what the policy does to training.

    Args:
        tracks: the label audits.
        faces: columns `part`, `video` and `track` of the face index.
        splits: the split table.
        config: its `audits` and `split`.
    """
    key = ["part", "video", "track"]
    judged = faces.merge(tracks[[*key, "verdict"]], on=key)
    judged = judged.merge(splits[["part", "video", "label", "fold"]], on=["part", "video"])
    verdicts = {}
    for verdict in Verdict:
        of_tracks = tracks[tracks["verdict"] == verdict]
        verdicts[str(verdict)] = {
            "videos": len(of_tracks[["part", "video"]].drop_duplicates()),
            "tracks": len(of_tracks),
            "faces": int((judged["verdict"] == verdict).sum()),
        }
    doubted = judged["verdict"].isin([Verdict.UNSWAPPED, Verdict.UNCERTAIN])
    policy = config.audits.label_noise
    folds = {}
    for fold in range(config.split.folds):
        roles = judged["fold"].map(lambda of, fold=fold: role_of(of, fold, config.split.folds))
        trained = roles == Role.TRAIN
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
    """Draw how many tracks have how large a share of changed pixels, by verdict."""
    figure = Figure(figsize=(6.5, 3.8))
    axes = figure.subplots()
    known = tracks[tracks["changed"].notna()]
    groups = [known.loc[known["verdict"] == verdict, "changed"] for verdict in _COLORS]
    # Sixteen compared frames of some 2,000 pixels cannot show less than this.
    bins = np.concatenate([[0], np.geomspace(1e-3, 1, 31)])
    axes.hist(
        [group.clip(lower=5e-4) for group in groups],
        bins=list(bins),
        stacked=True,
        color=list(_COLORS.values()),
        label=[f"{verdict} ({len(group)})" for verdict, group in zip(_COLORS, groups, strict=True)],
    )
    axes.axvline(MIN_CHANGED_SHARE, color="#666666", linestyle=":", label="altered from here")
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_xlim(0, 1)
    unknown = int((tracks["verdict"] == Verdict.UNKNOWN).sum())
    axes.set(xlabel="share of the face's pixels that changed", ylabel="FAKE tracks")
    axes.set_title(f"FAKE faces beside their originals; {unknown} not comparable", loc="left")
    axes.legend()
    return figure


def choose_pairs(tracks: pd.DataFrame) -> pd.DataFrame:
    """Return tracks to show: of each verdict some, each of another original where there are enough.

    Args:
        tracks: the label audits.
    """
    # Names are opaque: their order is as good as chance.
    known = tracks[tracks["frames"] > 0].sort_values(["part", "video", "track"])
    quota = _PAIRS // 4
    chosen: list[pd.DataFrame] = []
    for verdict in (Verdict.UNSWAPPED, Verdict.UNCERTAIN, Verdict.ALTERED):
        rows = known[known["verdict"] == verdict]
        room = _PAIRS - sum(map(len, chosen)) if verdict == Verdict.ALTERED else quota
        order = rows.groupby(["part", "original"]).cumcount()
        # First one of each family, then the second ones.
        first = rows.assign(order=order).sort_values(["order", "changed"], kind="stable")
        pool = first[first["order"] == 0] if (order == 0).sum() >= room else first
        spread = np.unique(np.linspace(0, len(pool) - 1, min(room, len(pool))).astype(int))
        chosen.append(pool.iloc[spread].drop(columns="order"))
    return pd.concat(chosen)


def draw_pairs(chosen: pd.DataFrame, indices: list[Path], shards: Path) -> Figure:
    """Draw original, fake and difference of some tracks side by side.

    Args:
        chosen: rows of the label audits.
        indices: face indices of all shards.
        shards: folder of face shards.
    """
    sides = (chosen["video"], chosen["original"])
    shown = pd.concat([pd.DataFrame({"part": chosen["part"], "video": name}) for name in sides])
    faces = read_tables(indices, FACES, matching=shown)
    figure = Figure(figsize=(6.3, 2.5 * max(1, len(chosen))))
    grid = figure.subplots(max(1, len(chosen)), 3, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    reader = ShardReader(shards)
    for panels, row in zip(grid, chosen.to_dict("records"), strict=False):
        of_part = faces[faces["part"] == row["part"]]
        ours = of_part[(of_part["video"] == row["video"]) & (of_part["track"] == row["track"])]
        theirs = of_part[
            (of_part["video"] == row["original"]) & (of_part["track"] == row["original_track"])
        ]
        # Closer in time than the audit asks for where the video has fewer than 30 frames a second.
        tracks = {0: theirs.to_dict("records")}
        pairs = match_original(ours.to_dict("records"), tracks, fps=None)
        if not pairs:
            continue
        fake, real = pairs[len(pairs) // 2]
        ours_rgb, theirs_rgb = aligned_pair(fake, real, reader)
        mask = compare_crops(fake, real, reader).mask
        panels[0].imshow(theirs_rgb)
        panels[0].set_title(f"{row['original']}\nREAL", fontsize=9)
        panels[1].imshow(ours_rgb)
        panels[1].set_title(f"{row['video']}\nFAKE, {row['verdict']}", fontsize=9)
        panels[2].imshow(mask, cmap="magma", vmin=0, vmax=_BRIGHTEST)
        panels[2].set_title(f"1 - SSIM\n{row['changed']:.1%} of the face changed", fontsize=9)
        scale = len(mask) / fake["crop_side"]
        corner = [(fake[f"{axis}0"] - fake[f"crop_{axis}0"]) * scale for axis in "xy"]
        size = [(fake[f"{axis}1"] - fake[f"{axis}0"]) * scale for axis in "xy"]
        panels[2].add_patch(Rectangle((corner[0], corner[1]), *size, fill=False, ec="w", lw=0.8))
    return figure
