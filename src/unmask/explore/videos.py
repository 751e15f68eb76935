"""Videos of the ledger: statuses, labels, container metadata and families."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from unmask.explore.distributions import describe, draw_distributions
from unmask.files import atomic_path
from unmask.report.pages import Section, write_page
from unmask.report.style import COLORS, WIDTH, create_axes, draw_bars, save
from unmask.tables import SHOWN, VIDEOS, read_table
from unmask.vocabulary import Label, Status

_CONTAINER_COLUMNS = {
    "video_duration": "duration [s]",
    "video_nb_frames": "frames",
    "video_fps": "frames per second",
    "video_bit_rate": "bit rate [Mbit/s]",
    "video_width": "width [px]",
    "video_height": "height [px]",
}
_MAX_ROWS = 100  # of a table on the page
_MAX_STATED = 6  # values of a column in the figure of what containers say
_MAX_PARTS = 60  # in the figure of labels


def explore_videos(ledger: Path, output: Path) -> None:
    """Draw and tabulate statuses, labels, container metadata and families.

    Args:
        ledger: `results/videos.parquet`.
        output: folder of the figures, the page and its tables as CSV.
    """
    videos = read_table(ledger, VIDEOS)
    labelled = videos[videos["label"].isin(list(Label))]
    opened = labelled[labelled["video_codec_name"].notna()]
    containers = opened.assign(video_bit_rate=opened["video_bit_rate"] / 1e6)
    save(draw_statuses(videos["status"]), output / "statuses.svg")
    save(draw_labels(labelled), output / "labels.svg")
    families = list_families(labelled)
    save(draw_families(families), output / "families.svg")
    figure = draw_distributions(containers, _CONTAINER_COLUMNS, "Container metadata by label")
    save(figure, output / "containers.svg")
    save(draw_shown(opened), output / "shown.svg")

    described = describe(containers, list(_CONTAINER_COLUMNS))
    not_ok = videos.loc[videos["status"] != Status.OK]
    not_ok = not_ok[["part", "video", "label", "status", "detail"]]
    units = "Sizes in bytes, bit rates in bit/s, times in seconds, width and height in pixels."
    few_columns = videos.drop(columns=["phash", "fingerprint", "detail", "family"])
    few_columns = few_columns.dropna(axis="columns", how="all")
    tables = {
        "containers.csv": described,
        "not_ok.csv": not_ok,
        "families.csv": families,
        "videos.csv": videos.drop(columns=["phash", "fingerprint"]),
    }
    for name, table in tables.items():
        with atomic_path(output / name) as temporary:
            table.to_csv(temporary, index=False)
    of_all = f"The ledger has {len(videos):,} videos."
    shown = described.assign(column=described["column"].map(_CONTAINER_COLUMNS))
    sections = [
        Section("Container metadata", "Distributions by label.", shown),
        _section("Videos whose status is not ok", of_all, not_ok, "not_ok.csv"),
        _section("Largest families", "", families, "families.csv"),
        _section("Videos", units, few_columns, "videos.csv"),
    ]
    write_page(output / "metadata.html", "sections.html.j2", title="Metadata", sections=sections)


def _section(heading: str, text: str, rows: pd.DataFrame, name: str) -> Section:
    count = f"{min(_MAX_ROWS, len(rows)):,} of the {len(rows):,} rows of {name}."
    return Section(heading, f"{count} {text}", rows.head(_MAX_ROWS))


def draw_statuses(statuses: pd.Series) -> Figure:
    """Draw the number of videos of each status, the most frequent on top."""
    counts = statuses.value_counts()
    size = (WIDTH, 1.2 + 0.4 * max(1, len(counts)))
    figure, axes = create_axes(f"Status of {len(statuses):,} videos", "videos", size=size)
    draw_bars(axes, counts, _with_shares(counts))
    return figure


def draw_labels(videos: pd.DataFrame) -> Figure:
    """Draw the number of REAL and FAKE videos, and their shares in each part."""
    counts = videos.groupby(["part", "label"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(COLORS), fill_value=0)
    totals, parts = counts.sum(), counts.head(_MAX_PARTS)
    figure = Figure(figsize=(WIDTH, 2.6 + 0.34 * len(parts)))
    above, below = figure.subplots(2, 1, height_ratios=[2, 0.6 + 0.35 * len(parts)])
    draw_bars(above, totals, _with_shares(totals), list(COLORS.values()))
    above.set(title=f"Labels of {totals.sum():,} videos", xlabel="videos")
    videos_of_part = parts.sum(axis=1)
    left = pd.Series(0.0, parts.index)
    for label, color in COLORS.items():
        share = parts[label] / videos_of_part
        bars = below.barh(parts.index.astype(str), share, left=left, color=color)
        left += share
    below.bar_label(bars, [f"{count:,}" for count in videos_of_part], padding=4)
    below.set(title="By part, and videos of the part", xlabel="share of videos", xlim=(0, 1))
    below.invert_yaxis()
    return figure


def _with_shares(counts: pd.Series) -> list[str]:
    return [f"{count:,} ({count / max(1, counts.sum()):.1%})" for count in counts]


def draw_shown(videos: pd.DataFrame) -> Figure:
    """Draw how many videos of each label state which pixel aspect, matrix, fields and colours."""
    counts = [
        videos.groupby([videos[column].fillna("not stated"), "label"]).size().unstack(fill_value=0)
        for column in SHOWN
    ]
    tops = [table.loc[table.sum(axis=1).nlargest(_MAX_STATED).index] for table in counts]
    heights = [1.2 + 0.3 * len(table) for table in tops]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6))
    panels = figure.subplots(len(tops), 1, height_ratios=heights, squeeze=False).flat
    for axes, table, title in zip(panels, tops, SHOWN.values(), strict=True):
        left = pd.Series(0, table.index)
        for label, color in COLORS.items():
            bars = axes.barh(table.index.astype(str), table.get(label, 0), left=left, color=color)
            left = left + table.get(label, 0)
        axes.bar_label(bars, [f"{count:,}" for count in left], padding=4)
        axes.set(title=title)
        axes.invert_yaxis()
        axes.margins(x=0.15)
    handles = [Patch(color=color, label=label) for label, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle("How containers say that pictures are shown", x=0.02, ha="left")
    return figure


def list_families(videos: pd.DataFrame) -> pd.DataFrame:
    """Return one row per family (an original and its fakes), the largest first."""
    fake = (videos["label"] == Label.FAKE).astype(int)
    table = fake.groupby(videos["family"]).agg(videos="size", fakes="sum").reset_index()
    originals = videos.loc[videos["label"] == Label.REAL, "family"]
    table["original_present"] = table["family"].isin(originals).astype(bool)
    return table.sort_values(["fakes", "family"], ascending=[False, True], ignore_index=True)


def draw_families(families: pd.DataFrame) -> Figure:
    """Draw how many fakes an original has, from the result of `list_families`."""
    counts = families["fakes"].value_counts().sort_index()
    absent = int((~families["original_present"]).sum())
    title = f"{len(families):,} families, {absent:,} without their original"
    figure, axes = create_axes(title, "fakes of the family", "families", (WIDTH, 3.8))
    bars = axes.bar([str(count) for count in counts.index], counts, color=COLORS[Label.FAKE])
    if len(counts) <= 15:
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.margins(y=0.12)
    return figure
