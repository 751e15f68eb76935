"""Costs of a run: wall time of its jobs by rule, and disk space of its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from unmask.files import atomic_path
from unmask.report.style import COLORS, WIDTH, draw_bars, save
from unmask.vocabulary import Label

_BYTES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1}
_SECONDS = {"h": 3600, "min": 60, "s": 1}


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
    """Draw the wall time of jobs by rule and the disk space by folder.

    Args:
        times: columns `rule`, `jobs` and `seconds`.
        storage: columns `folder`, `files` and `bytes`.
    """
    figure = Figure(figsize=(WIDTH, 2.4 + 0.36 * (len(times) + len(storage))))
    above, below = figure.subplots(2, 1, height_ratios=[1 + len(times), 1 + len(storage)])
    seconds, size = times.set_index("rule")["seconds"], storage.set_index("folder")["bytes"]
    unit = _unit(seconds.max() if len(seconds) else 0, _SECONDS)
    captions = [
        f"{_with_unit(took, _SECONDS)}, {jobs} job{'s' * (jobs != 1)}"
        for took, jobs in zip(seconds, times["jobs"], strict=True)
    ]
    draw_bars(above, seconds / _SECONDS[unit], captions, COLORS[Label.REAL])
    above.set(title="Wall time of all jobs by rule", xlabel=f"wall time [{unit}]")
    unit = _unit(size.max() if len(size) else 0, _BYTES)
    draw_bars(below, size / _BYTES[unit], [_with_unit(value, _BYTES) for value in size])
    below.set(title="Disk space of results", xlabel=unit)
    return figure


def _unit(value: float, units: Mapping[str, float]) -> str:
    """Return the largest unit in which `value` is at least one, else the smallest unit."""
    return next((name for name, size in units.items() if value >= size), list(units)[-1])


def _with_unit(value: float, units: Mapping[str, float]) -> str:
    unit = _unit(value, units)
    return f"{value / units[unit]:.1f} {unit}"
