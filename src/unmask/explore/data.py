"""Exploration: the figures, pages and tables that show the data before any model does."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from unmask.explore import figures as overview
from unmask.files import atomic_path
from unmask.report.pages import TableSection, write_page
from unmask.report.style import save
from unmask.tables import FACES, VIDEOS, read_table, read_tables
from unmask.vocabulary import Label, Status

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ROWS_SHOWN = 100
_SAMPLES, _SAMPLES_OF_LABEL = 9, 6
_ODD = 3


def explore_videos(ledger: Path, output: Path) -> None:
    """Draw and tabulate the ledger, the labels, the containers and the families.

    Args:
        ledger: `results/videos.parquet`.
        output: folder of the figures, pages and tables.
    """
    videos = read_table(ledger, VIDEOS)
    labelled = videos[videos["label"].isin(list(Label))]
    families = families_of(labelled)
    opened = labelled[labelled["video_codec_name"].notna()]
    containers = opened.assign(video_bit_rate=opened["video_bit_rate"] / 1e6)
    statuses = {str(name): int(n) for name, n in videos["status"].value_counts().items()}
    save(overview.bar_counts("Ledger", "videos", statuses), output / "statuses.svg")
    save(overview.labels(labelled), output / "labels.svg")
    save(overview.families(families), output / "families.svg")
    save(
        overview.distributions(containers, overview.CONTAINERS, "Containers, by label"),
        output / "containers.svg",
    )
    spread = describe(containers, list(overview.CONTAINERS))
    odd = videos.loc[videos["status"] != Status.OK, ["part", "video", "label", "status", "detail"]]
    _write_csv(videos.drop(columns=["phash", "fingerprint"]), output / "videos.csv")
    _write_csv(families, output / "families.csv")
    _write_csv(spread, output / "containers.csv")
    _write_csv(odd, output / "not_ok.csv")
    known = videos.drop(columns=["phash", "fingerprint", "detail", "family"])
    sections = [
        TableSection(
            "Distributions of container values",
            "By label.",
            spread.assign(column=spread["column"].map(overview.CONTAINERS)),
        ),
        TableSection(
            "Videos whose status is not ok",
            f"{len(odd):,} of {len(videos):,}{_first_of('not_ok.csv', odd)}.",
            odd.head(_ROWS_SHOWN),
        ),
        TableSection(
            "Largest families",
            f"{len(families):,} families{_first_of('families.csv', families)}.",
            families.head(_ROWS_SHOWN),
        ),
        TableSection(
            "Videos",
            f"{len(videos):,} videos{_first_of('videos.csv', videos)}. Sizes are in bytes, bit "
            "rates in bit/s, times in seconds, pictures in pixels.",
            known.head(_ROWS_SHOWN).dropna(axis="columns", how="all"),
        ),
    ]
    write_page(output / "metadata.html", "tables.html.j2", title="Metadata", sections=sections)


def _first_of(name: str, rows: pd.DataFrame) -> str:
    """Return the words that say so where a page has only the first rows of a table."""
    return f"; the first {_ROWS_SHOWN} of {name}" if len(rows) > _ROWS_SHOWN else ""


def families_of(videos: pd.DataFrame) -> pd.DataFrame:
    """Return one row per family, the largest first."""
    grouped = videos.assign(fake=videos["label"] == Label.FAKE).groupby("family")
    present = set(videos.loc[videos["label"] == Label.REAL, "video"])
    table = pd.DataFrame({"videos": grouped.size(), "fakes": grouped["fake"].sum().astype(int)})
    table = table.reset_index()
    table["original_present"] = table["family"].isin(present).astype(bool)
    return table.sort_values(["fakes", "family"], ascending=[False, True], ignore_index=True)


def describe(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return count, mean, spread and quantiles of columns by label, as rows."""
    rows = []
    for column in columns:
        for label in Label:
            values = pd.to_numeric(table.loc[table["label"] == label, column]).astype("float64")
            values = values.replace([np.inf, -np.inf], np.nan).dropna()
            quantiles = values.quantile([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
            names = ("min", "5 %", "25 %", "median", "75 %", "95 %", "max")
            rows.append(
                {
                    "column": column,
                    "label": str(label),
                    "videos": len(values),
                    "mean": values.mean(),
                    "std": values.std(),
                    **dict(zip(names, quantiles, strict=True)),
                }
            )
    return pd.DataFrame(rows)


def explore_faces(ledger: Path, shards: Path, indices: list[Path], output: Path) -> None:
    """Draw and tabulate the faces: samples, statistics, odd cases and landmarks.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        output: folder of the figures and tables.
    """
    videos = read_table(ledger, VIDEOS)
    usable = videos[(videos["status"] == Status.OK) & videos["label"].isin(list(Label))]
    known = usable[["part", "video", "label", "family"]]
    # Landmarks, most of the index, are read for the few faces on which they are drawn.
    columns = [name for name in FACES.columns if not name.startswith("landmarks")]
    faces = read_tables(indices, FACES, columns).merge(known, on=["part", "video"])
    by_video = faces_by_video(usable, faces)
    _write_csv(by_video, output / "faces.csv")
    _write_csv(describe(by_video, list(overview.FACES_OF_VIDEO)), output / "face_statistics.csv")
    save(
        overview.distributions(by_video, overview.FACES_OF_VIDEO, "Faces of a video, by label"),
        output / "face_statistics.svg",
    )
    # Each family once, as long as there are families.
    middles = _middle_faces(faces).drop_duplicates(["label", "family"])
    sample = pd.concat(
        [evenly(middles[middles["label"] == label], _SAMPLES_OF_LABEL) for label in Label]
    )
    captions = [f"{row.label}\n{row.video}" for row in sample.itertuples()]
    figure = overview.face_grid("Faces as the model gets them", sample, captions, shards)
    save(figure, output / "faces.png")
    chosen = evenly(middles.drop_duplicates("family"), _SAMPLES)
    marked = read_tables(indices, FACES, matching=chosen[list(FACES.key)])
    marked = marked.merge(known, on=["part", "video"])
    captions = [f"{row.label}\n{row.video}" for row in marked.itertuples()]
    save(
        overview.face_grid("Landmarks", marked, captions, shards, points=True),
        output / "landmarks.png",
    )
    odd, captions = odd_faces(faces)
    save(overview.face_grid("Odd cases", odd, captions, shards), output / "odd_cases.png")
    _write_csv(odd.assign(why=captions)[["why", "part", "video", "key"]], output / "odd_cases.csv")


def faces_by_video(videos: pd.DataFrame, faces: pd.DataFrame) -> pd.DataFrame:
    """Return one row per video with what its faces are like; pixels are of the video."""
    measured = faces.assign(
        width=faces["x1"] - faces["x0"],
        height=faces["y1"] - faces["y0"],
        # An interpolated box has no score of its own.
        score=faces["score"].where(faces["score"] > 0),
    )
    means = measured.groupby(["part", "video"])[["width", "height", "score", "sharpness"]].mean()
    columns = ["part", "video", "label", "frames", "frames_with_face", "tracks", "crops"]
    table = videos[[*columns, "detections", "reused"]].rename(columns={"tracks": "faces"})
    table = table.assign(share_with_face=table["frames_with_face"] / table["frames"])
    return table.merge(means.reset_index(), how="left", on=["part", "video"])


def odd_faces(faces: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the faces at the ends of what is measured, a family once per kind, and captions."""
    measured = faces.assign(width=faces["x1"] - faces["x0"])
    tracks = faces.groupby(["part", "video"])["track"].transform("nunique")
    kinds = [
        ("lowest score", "score", "{:.2f}", measured[measured["score"] > 0], True),
        ("least sharp", "sharpness", "{:.0f}", measured, True),
        ("smallest", "width", "{:.0f} px", measured, True),
        ("largest", "width", "{:.0f} px", measured, False),
    ]
    shown, captions = [], []
    for name, column, pattern, candidates, ascending in kinds:
        ordered = candidates.dropna(subset=[column]).sort_values(column, ascending=ascending)
        rows = ordered.drop_duplicates("family").head(_ODD)
        shown.append(rows)
        captions += [
            f"{name}: {pattern.format(row[column])}\n{row['label']} {row['video']}"
            for _, row in rows.iterrows()
        ]
    crowded = measured.assign(tracks=tracks)[tracks > 1].sort_values(
        ["tracks", "part", "video", "track"], ascending=[False, True, True, True]
    )
    rows = crowded.drop_duplicates(["part", "video", "track"]).head(_ODD)
    shown.append(rows)
    captions += [
        f"{row['tracks']} tracks: number {row['track'] + 1}\n{row['label']} {row['video']}"
        for row in rows.to_dict("records")
    ]
    return pd.concat(shown), captions


def _middle_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the first person's middle crop of each video."""
    first = faces[faces["track"] == 0]
    middle = first.groupby(["part", "video"])["frame"].transform(
        lambda frames: frames.sort_values().iloc[len(frames) // 2]
    )
    return first[first["frame"] == middle]


def evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most `count` rows, spread evenly over a table."""
    if rows.empty:
        return rows
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]


def explore_costs(results: Path, benchmarks: Path, output: Path) -> None:
    """Draw and tabulate the time of the jobs that ran here and the room that results take.

    Args:
        results: the workflow's results folder.
        benchmarks: folder of Snakemake's benchmarks; jobs that did not run here have none.
        output: folder of the figure and the tables.
    """
    times, storage = times_of(benchmarks), storage_of(results)
    _write_csv(times, output / "times.csv")
    _write_csv(storage, output / "storage.csv")
    save(overview.costs(times, storage), output / "costs.svg")


def times_of(benchmarks: Path) -> pd.DataFrame:
    """Return one row per rule: jobs, wall seconds, CPU seconds and the most memory of one."""
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        inside = path.relative_to(benchmarks)
        rule = inside.parts[0].removesuffix(".tsv")
        if len(table):
            row = table.reindex(columns=["s", "cpu_time", "max_rss"]).iloc[-1]
            rows.append({"rule": rule, **row.astype("float64").to_dict()})
    table = pd.DataFrame(rows, columns=["rule", "s", "cpu_time", "max_rss"])
    times = table.groupby("rule").agg(
        jobs=("s", "size"),
        seconds=("s", "sum"),
        cpu_seconds=("cpu_time", "sum"),
        most_memory_mb=("max_rss", "max"),
    )
    return times.reset_index().sort_values("seconds", ascending=False, ignore_index=True)


def storage_of(results: Path) -> pd.DataFrame:
    """Return one row per folder of results: files and bytes; single files are one row."""
    rows = []
    for path in sorted(file for file in results.rglob("*") if file.is_file()):
        inside = path.relative_to(results)
        folder = f"{inside.parts[0]}/" if len(inside.parts) > 1 else "single files"
        rows.append({"folder": folder, "files": 1, "bytes": path.stat().st_size})
    table = pd.DataFrame(rows, columns=["folder", "files", "bytes"]).groupby("folder").sum()
    return table.reset_index().sort_values("bytes", ascending=False, ignore_index=True)


def explore_shortcuts(audit: Path, output: Path) -> None:
    """Draw `results/audits/shortcuts.json`."""
    report: Mapping[str, object] = json.loads(audit.read_text(encoding="utf-8"))
    save(overview.shortcuts(report), output)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
