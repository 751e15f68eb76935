"""The command line: one subcommand per rule, each a thin call of the function it is named after.

The workflow calls these; they can be called by hand too. Settings come as JSON of configuration
sections (`--settings '{"frames": {"per_video": 16}}'`), and what is left out has its default.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unmask.config import Config, load_settings
from unmask.errors import UnmaskError
from unmask.orphans import end_with_snakemake
from unmask.progress import configure_logging

logger = logging.getLogger("unmask")

Options = argparse.Namespace
Command = Callable[[Options], None]


def _settings(text: str) -> Config:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnmaskError(f"--settings: no valid JSON ({error})") from None
    return load_settings(values)


# Modules are imported inside the commands: torch alone takes seconds that `probe` need not wait.


def _demo(options: Options) -> None:
    from unmask.demo import build_demo

    print(build_demo(options.folder, options.seed))


def _check_experiments(options: Options) -> None:
    from unmask.training.experiments import check_experiments

    check_experiments(options.settings, options.out)


def _probe(options: Options) -> None:
    from unmask.videos.probe import probe_shard

    limits = options.settings.limits
    chunk, chunks = options.chunk, options.chunks
    probe_shard(options.parts, chunk, chunks, limits, options.out, options.workers)


def _extract_frames(options: Options) -> None:
    from unmask.videos.stream import write_stream

    write_stream(options.parts, options.probe, options.settings, options.decoders, options.out)


def _extract_audio(options: Options) -> None:
    from unmask.videos.audio import extract_audio

    extract_audio(options.parts, options.probe, options.settings, options.shard, options.index)


def _crop_faces(options: Options) -> None:
    from unmask.faces.cropping import crop_shard

    crop_shard(
        options.stream,
        options.probe,
        options.settings.faces,
        options.shard,
        options.index,
        options.videos,
    )


def _embed_faces(options: Options) -> None:
    from unmask.faces.identity import embed_shard

    embed_shard(options.shard, options.index, options.out)


def _plan(options: Options) -> None:
    from unmask.config import load_config
    from unmask.plan import REPOSITORY, load_yaml, plan_faces

    values = load_yaml(options.config)
    if options.data_root is not None:
        values["data_root"] = str(options.data_root)
    config = load_config(values, REPOSITORY)
    print(plan_faces(config, options.cores, options.samples).describe())


def _experiments(options: Options) -> None:
    from unmask.config import load_config
    from unmask.plan import REPOSITORY, load_yaml
    from unmask.training.experiments import describe_experiments

    manual = REPOSITORY / "config" / "config.yaml"
    values = load_yaml([path for path in (manual,) if path.is_file()] + options.config)
    print(describe_experiments(load_config(values, REPOSITORY)))


def _ledger(options: Options) -> None:
    from unmask.videos.ledger import write_ledger

    write_ledger(options.probes, options.cropped, options.out, options.summary)


def _split(options: Options) -> None:
    from unmask.splits.folds import write_splits

    write_splits(
        options.ledger, options.identities, options.settings.split, options.out, options.audit
    )


def _audit_leaks(options: Options) -> None:
    from unmask.audits.leaks import LeakFiles, audit_leaks

    audit_leaks(
        options.splits,
        options.ledger,
        options.identities,
        options.shards,
        options.indices,
        options.settings.split,
        LeakFiles(options.summary, options.pairs, options.sheet),
    )


def _audit_shortcuts(options: Options) -> None:
    from unmask.audits.shortcuts import audit_shortcuts

    audit_shortcuts(
        options.ledger,
        options.splits,
        options.settings.audits,
        options.settings.seed,
        options.out,
        options.figure,
    )


def _audit_labels(options: Options) -> None:
    from unmask.audits.label_noise import audit_shard

    audit_shard(options.probe, options.index, options.shards, options.out)


def _compare_detectors(options: Options) -> None:
    from unmask.audits.detectors import compare_detectors

    settings = options.settings
    compare_detectors(options.ledger, options.parts, settings.audits, settings.faces, options.out)


def _report_labels(options: Options) -> None:
    from unmask.audits.label_noise_report import report_labels

    report_labels(
        options.noise,
        options.indices,
        options.shards,
        options.splits,
        options.settings,
        options.out,
    )


def _tracking(options: Options) -> None:
    from unmask.tracking import create_tracking

    create_tracking(options.settings.tracking, options.out)


def _track(options: Options) -> None:
    from unmask.tracking import track_runs

    track_runs(
        options.runs, options.evaluation, options.bundle, options.settings.tracking, options.out
    )


def _sync_tracking(options: Options) -> None:
    from unmask.tracking import sync_tracking

    sync_tracking(options.tracking)


def _train(options: Options) -> None:
    from unmask.training.fit import FitJob, fit

    settings = options.settings
    job = FitJob(
        experiment=options.experiment,
        fold=options.fold,
        folds=settings.split.folds,
        seed=options.seed,
        shards=options.shards,
        indices=options.indices,
        splits=options.splits,
        noise=options.noise,
        tracking=options.tracking,
        threads=options.threads,
    )
    fit(job, settings.training, settings.audits, options.out)


def _score(options: Options) -> None:
    from unmask.inference.score import score_model

    score_model(
        options.model,
        options.run,
        options.shards,
        options.indices,
        options.splits,
        options.threads,
        options.settings.training.batch_size,
        options.out,
        options.speed,
    )


def _evaluate(options: Options) -> None:
    from unmask.evaluation.evaluate import evaluate

    evaluate(
        options.scores,
        options.runs,
        options.splits,
        options.ledger,
        options.shards,
        options.indices,
        options.settings.evaluation,
        options.out,
    )


def _sample_shifts(options: Options) -> None:
    from unmask.robustness.shifted_clips import sample_shifts

    count = options.settings.evaluation.shift_videos
    sample_shifts(options.ledger, options.splits, options.folds, count, options.out)


def _shift_faces(options: Options) -> None:
    from unmask.robustness.shifted_clips import shift_shard

    shift_shard(
        options.parts,
        options.probe,
        options.sample,
        options.settings,
        options.workers,
        options.shard,
        options.index,
        options.videos,
    )


def _score_shifts(options: Options) -> None:
    from unmask.inference.score import score_shifts

    score_shifts(
        options.model,
        options.run,
        options.shards,
        options.indices,
        options.splits,
        options.threads,
        options.settings.training.batch_size,
        options.out,
    )


def _evaluate_shifts(options: Options) -> None:
    from unmask.robustness.evaluate import evaluate_shifts

    evaluate_shifts(
        options.scores,
        options.runs,
        options.videos,
        options.splits,
        options.calibration,
        options.summary,
        options.figure,
    )


def _score_set(options: Options) -> None:
    from unmask.inference.score import score_set

    score_set(
        options.model,
        options.run,
        options.shards,
        options.indices,
        options.ledger,
        options.threads,
        options.settings.training.batch_size,
        options.out,
    )


def _evaluate_sets(options: Options) -> None:
    from unmask.evaluation.external_sets import evaluate_sets

    evaluate_sets(
        options.names,
        options.ledgers,
        options.ledger,
        options.runs,
        options.results,
        options.table,
        options.details,
        options.figure,
    )


def _compare(options: Options) -> None:
    from unmask.evaluation.compare import ComparisonFiles, compare

    compare(
        options.metrics,
        options.predictions,
        options.speeds,
        options.settings,
        ComparisonFiles(options.table, options.details, options.figure, options.page),
    )


def _explore_videos(options: Options) -> None:
    from unmask.explore.videos import explore_videos

    explore_videos(options.ledger, options.out)


def _explore_faces(options: Options) -> None:
    from unmask.explore.faces import explore_faces

    explore_faces(options.ledger, options.shards, options.indices, options.out)


def _explore_augmentations(options: Options) -> None:
    from unmask.explore.augmentations import explore_augmentations

    settings = options.settings
    explore_augmentations(
        options.ledger, options.shards, options.indices, settings.training, options.out
    )


def _explore_pairs(options: Options) -> None:
    from unmask.explore.pairs import explore_pairs

    explore_pairs(options.ledger, options.parts, options.settings.limits, options.out)


def _explore_costs(options: Options) -> None:
    from unmask.explore.costs import explore_costs

    explore_costs(options.results, options.benchmarks, options.out)


def _export(options: Options) -> None:
    import torch

    from unmask.kaggle.bundle import Trained, export_bundle
    from unmask.kaggle.card import CardSources
    from unmask.kaggle.parity import read_clips

    torch.set_num_threads(options.threads)
    export_bundle(
        [Trained(*pair) for pair in zip(options.models, options.runs, strict=True)],
        options.evaluation,
        options.comparison,
        read_clips(options.shards, options.indices),
        CardSources(options.ledger, options.splits, options.shifts),
        options.settings,
        options.out,
    )


def _grade(options: Options) -> None:
    from unmask.kaggle.grade import grade_submission

    print(grade_submission(options.submission, options.labels))


def _schema(options: Options) -> None:
    from unmask.config import config_schema, config_table, with_config_table

    if options.readme is not None:
        options.readme.write_text(with_config_table(options.readme.read_text()))
    elif options.table:
        print(config_table())
    else:
        print(json.dumps(config_schema(), indent=2))


def _summary(options: Options) -> None:
    from unmask.explore.summary import print_summary

    print_summary(options.results, options.report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unmask", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        # A cut-off option would mean another one as soon as there is one that begins alike.
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        sub.add_argument("--log", type=Path, help="log file; by default the log goes to stderr")
        return sub

    def path(sub: argparse.ArgumentParser, *names: str) -> None:
        for name in names:
            sub.add_argument(f"--{name}", type=Path, required=True)

    def paths(sub: argparse.ArgumentParser, *names: str) -> None:
        for name in names:
            sub.add_argument(f"--{name}", type=Path, nargs="+", required=True)

    def settings(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--settings", default="{}", help="configuration sections as JSON")

    sub = add("demo", _demo, "build the miniature challenge")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--seed", type=int, default=0)

    sub = add("plan", _plan, "predict what videos to faces will cost, from a few of them")
    sub.add_argument("--config", type=Path, nargs="*", default=[], help="as --configfile")
    sub.add_argument("--data-root", type=Path, help="the folder of parts, instead of the config's")
    sub.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    sub.add_argument("--samples", type=int, default=24, help="videos to measure")

    sub = add("experiments", _experiments, "list the experiments, their models and sizes")
    sub.add_argument("--config", type=Path, nargs="*", default=[], help="as --configfile")

    sub = add("probe", _probe, "read the containers of one shard's videos")
    paths(sub, "parts")
    path(sub, "out")
    sub.add_argument("--chunk", type=int, default=0)
    sub.add_argument("--chunks", type=int, default=1)
    sub.add_argument("--workers", type=int, default=1, help="processes that open videos")
    settings(sub)

    sub = add("extract-frames", _extract_frames, "write the frame stream of one shard")
    paths(sub, "parts")
    path(sub, "probe", "out")
    sub.add_argument("--decoders", type=int, default=1, help="decoding processes")
    settings(sub)

    sub = add("extract-audio", _extract_audio, "write the sound tracks of one shard")
    paths(sub, "parts")
    path(sub, "probe", "shard", "index")
    settings(sub)

    sub = add("crop-faces", _crop_faces, "crop the faces of one shard's frame stream")
    path(sub, "stream", "probe", "shard", "index", "videos")
    settings(sub)

    sub = add("embed-faces", _embed_faces, "tell who is in one shard's videos")
    path(sub, "shard", "index", "out")

    sub = add("ledger", _ledger, "join what became of every video")
    paths(sub, "probes", "cropped")
    path(sub, "out", "summary")

    sub = add("split", _split, "assign folds, families kept together")
    path(sub, "ledger", "out", "audit")
    sub.add_argument("--identities", type=Path, nargs="*", default=[], help="for group_by identity")
    settings(sub)

    sub = add("audit-leaks", _audit_leaks, "look for what a split shows on both sides")
    path(sub, "splits", "ledger", "shards", "summary", "pairs", "sheet")
    paths(sub, "identities", "indices")
    settings(sub)

    sub = add("audit-shortcuts", _audit_shortcuts, "measure how well metadata predicts labels")
    path(sub, "ledger", "splits", "out", "figure")
    settings(sub)

    sub = add("audit-labels", _audit_labels, "compare the FAKE faces of a shard with originals")
    path(sub, "probe", "index", "shards", "out")

    sub = add("report-labels", _report_labels, "count and show what the label audits say")
    paths(sub, "noise", "indices")
    path(sub, "shards", "splits", "out")
    settings(sub)

    sub = add("compare-detectors", _compare_detectors, "compare face detectors on the data")
    paths(sub, "parts")
    path(sub, "ledger", "out")
    settings(sub)

    sub = add("tracking", _tracking, "create the MLflow database and experiment")
    path(sub, "out")
    settings(sub)

    sub = add("sync-tracking", _sync_tracking, "copy buffered runs to the MLflow server")
    sub.add_argument("--tracking", type=Path, default=Path("results/tracking.json"))

    sub = add("track", _track, "bring MLflow up to date with all results")
    paths(sub, "runs")
    path(sub, "evaluation", "bundle", "out")
    settings(sub)

    sub = add("check-experiments", _check_experiments, "make each experiment's model once")
    path(sub, "out")
    settings(sub)

    sub = add("train", _train, "train one model")
    path(sub, "shards", "splits", "tracking", "out")
    paths(sub, "indices")
    sub.add_argument("--noise", type=Path, nargs="*", default=[], help="label audits of the shards")
    sub.add_argument("--experiment", required=True)
    sub.add_argument("--fold", type=int, required=True)
    sub.add_argument("--seed", type=int, required=True)
    sub.add_argument("--threads", type=int, default=1)
    settings(sub)

    sub = add("score", _score, "score the crops a model was not trained on")
    path(sub, "model", "run", "shards", "splits", "out", "speed")
    paths(sub, "indices")
    sub.add_argument("--threads", type=int, default=1)
    settings(sub)

    sub = add("evaluate", _evaluate, "calibrate and evaluate one experiment")
    paths(sub, "scores", "runs", "indices")
    path(sub, "splits", "ledger", "shards", "out")
    settings(sub)

    sub = add("sample-shifts", _sample_shifts, "choose the videos to answer shifted")
    path(sub, "ledger", "splits", "out")
    sub.add_argument("--folds", type=int, nargs="+", required=True)
    settings(sub)

    sub = add("shift-faces", _shift_faces, "shift one shard's chosen videos and crop their faces")
    paths(sub, "parts")
    path(sub, "probe", "sample", "shard", "index", "videos")
    sub.add_argument("--workers", type=int, default=1, help="processes")
    settings(sub)

    sub = add("score-shifts", _score_shifts, "score the shifted crops a model was not trained on")
    path(sub, "model", "run", "shards", "splits", "out")
    paths(sub, "indices")
    sub.add_argument("--threads", type=int, default=1)
    settings(sub)

    sub = add("evaluate-shifts", _evaluate_shifts, "measure what shifts cost one experiment")
    paths(sub, "scores", "runs", "videos")
    path(sub, "splits", "calibration", "summary", "figure")

    sub = add("score-set", _score_set, "score an external set with one model")
    path(sub, "model", "run", "shards", "ledger", "out")
    paths(sub, "indices")
    sub.add_argument("--threads", type=int, default=1)
    settings(sub)

    sub = add("evaluate-sets", _evaluate_sets, "compare the experiments on the external sets")
    sub.add_argument("--names", nargs="+", required=True)
    paths(sub, "ledgers", "runs")
    path(sub, "ledger", "results", "table", "details", "figure")

    sub = add("compare", _compare, "compare the experiments")
    paths(sub, "metrics", "predictions", "speeds")
    path(sub, "table", "details", "figure", "page")
    settings(sub)

    sub = add("explore-videos", _explore_videos, "draw labels, containers and families")
    path(sub, "ledger", "out")

    sub = add("explore-faces", _explore_faces, "draw faces, their statistics and odd cases")
    path(sub, "ledger", "shards", "out")
    paths(sub, "indices")

    sub = add("explore-augmentations", _explore_augmentations, "show what training does to crops")
    path(sub, "ledger", "shards", "out")
    paths(sub, "indices")
    settings(sub)

    sub = add("explore-pairs", _explore_pairs, "write a page that plays originals beside fakes")
    path(sub, "ledger", "out")
    paths(sub, "parts")
    settings(sub)

    sub = add("explore-costs", _explore_costs, "draw the time and the room that stages took")
    path(sub, "results", "benchmarks", "out")

    sub = add("export", _export, "write the Kaggle upload folder")
    paths(sub, "models", "runs", "indices")
    path(sub, "evaluation", "comparison", "shards", "splits", "ledger", "out")
    sub.add_argument("--shifts", type=Path, nargs="*", default=[])
    sub.add_argument("--threads", type=int, default=1)
    settings(sub)

    sub = add("grade", _grade, "print the log loss of a submission whose labels are known")
    path(sub, "submission", "labels")

    sub = add("schema", _schema, "print the configuration's JSON schema")
    sub.add_argument("--table", action="store_true", help="the Markdown table of keys instead")
    sub.add_argument("--readme", type=Path, help="replace the table between this file's markers")

    sub = add("summary", _summary, "print what came out of a run")
    sub.add_argument("--results", type=Path, default=Path("results"))
    sub.add_argument("--report", type=Path, default=Path("results/report.html"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; return the exit status: 0, or 2 for a problem the user can fix."""
    options = _parser().parse_args(arguments)
    configure_logging(options.log)
    try:
        end_with_snakemake()
        if "settings" in options:
            options.settings = _settings(options.settings)
        start = time.monotonic()
        options.command(options)
        logger.info("done in %.1f s", time.monotonic() - start)
    except UnmaskError as error:
        return _told(str(error), options)
    except OSError as error:
        if error.errno is None:
            raise
        return _told(f"{error.filename}: {error.strerror}", options)
    except Exception:
        # The log keeps the traceback even where the terminal is gone.
        logger.exception("this is a bug of unmask, please report it with this log")
        raise
    return 0


def _told(message: str, options: Options) -> int:
    logger.error("%s", message)
    if options.log is not None:
        print(f"unmask: {message}", file=sys.stderr)
    return 2
