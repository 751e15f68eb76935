"""Costs of a run: wall time of its jobs by rule, and disk space of its results."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from unmask.files import atomic_path
from unmask.report.style import COLORS, WIDTH, draw_bars, save
from unmask.vocabulary import Label


def explore_costs(results: Path, benchmarks: Path, output: Path) -> None:
    """Draw and tabulate the time of the jobs that ran here and the disk space of results.

    Args:
        results: the workflow's results folder.
        benchmarks: folder of Snakemake's benchmarks; jobs that did not run here have none.
        output: folder of the figure and the tables.
    """
    times, storage = sum_times(benchmarks), sum_storage(results)
    for name, table in (("times.csv", times), ("storage.csv", storage)):
        with atomic_path(output / name) as temporary:
            table.to_csv(temporary, index=False)
    save(draw_costs(times, storage), output / "costs.svg")


def sum_times(benchmarks: Path) -> pd.DataFrame:
    """Return one row per rule: jobs, wall seconds, CPU seconds and the peak memory of one job."""
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        if len(table):
            row = table.reindex(columns=["s", "cpu_time", "max_rss"]).iloc[-1]
            rows.append({"rule": rule, **row.astype("float64").to_dict()})
    table = pd.DataFrame(rows, columns=["rule", "s", "cpu_time", "max_rss"])
    times = table.groupby("rule").agg(
        jobs=("s", "size"),
        seconds=("s", "sum"),
        cpu_seconds=("cpu_time", "sum"),
        peak_memory_mb=("max_rss", "max"),
    )
    return times.reset_index().sort_values("seconds", ascending=False, ignore_index=True)


def sum_storage(results: Path) -> pd.DataFrame:
    """Return one row per folder of results: files and bytes; single files are one row."""
    rows = []
    for path in sorted(file for file in results.rglob("*") if file.is_file()):
        inside = path.relative_to(results)
        folder = f"{inside.parts[0]}/" if len(inside.parts) > 1 else "single files"
        rows.append({"folder": folder, "files": 1, "bytes": path.stat().st_size})
    table = pd.DataFrame(rows, columns=["folder", "files", "bytes"]).groupby("folder").sum()
    return table.reset_index().sort_values("bytes", ascending=False, ignore_index=True)


def draw_costs(times: pd.DataFrame, storage: pd.DataFrame) -> Figure:
    """Draw the wall time of jobs by rule and the disk space by folder."""
    figure = Figure(figsize=(WIDTH, 2.4 + 0.36 * (len(times) + len(storage))))
    above, below = figure.subplots(2, 1, height_ratios=[1 + len(times), 1 + len(storage)])
    seconds, size = times.set_index("rule")["seconds"], storage.set_index("folder")["bytes"]
    captions = [
        f"{timedelta(seconds=round(took))}, {jobs} job{'s' * (jobs != 1)}"
        for took, jobs in zip(seconds, times["jobs"], strict=True)
    ]
    draw_bars(above, seconds, captions, COLORS[Label.REAL])
    above.set(title="Wall time of all jobs by rule", xlabel="seconds")
    in_bytes = EngFormatter("B", places=1)
    draw_bars(below, size, [in_bytes(value) for value in size])
    below.set_title("Disk space of results")
    below.xaxis.set_major_formatter(EngFormatter("B"))
    return figure
