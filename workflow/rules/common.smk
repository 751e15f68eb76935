"""Configuration, shards and digests: the only helpers of the workflow.

INPUTS
    config        validated by unmask.config before any job starts
    data_root     listed for its parts (50 folders), never for its videos
    sets          folders of evaluation.sets, listed alike

NAMES
    SHARDS        every PART-CHUNK of the data, or what several parts are called as one shard
    SETS          sets/SET/SHARD of each external set: in no ledger, split or training
    MODELS        foldFOLD-seedSEED of every model of each experiment
"""

import json
import os
import platform
import re
import shlex
import sys

from snakemake.settings.types import DeploymentMethod, SharedFSUsage

from unmask.config_files import load_config, locate
from unmask.errors import UnmaskError
from unmask.provenance import source_digest
from unmask.videos.buckets import find_stored_parts, is_url
from unmask.videos.source import find_parts, shards_of

# Jobs run the interpreter that parsed this file, activated environment or not; in a container or a
# conda environment, the one that comes first there.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    # PID of the Snakemake process; jobs exit when it exits.
    UNMASK_SNAKEMAKE=f"{platform.node()}:{os.getpid()}",
)
# They run the code that was digested for them, everywhere. Inside their shell, since Snakemake
# keeps PYTHONPATH from conda environments.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(ROOT / 'src'))}"
    "${{PYTHONPATH:+:$PYTHONPATH}}; "
)
IN_CONTAINER = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
# The miniature challenge, which the rule `demo` writes where it is missing.
DEMO = "resources/demo"
DEMO_PARTS = [f"{DEMO}/train/dfdc_train_part_{part}" for part in (0, 1)]


def parts_of(root, key="data_root"):
    """Return the parts below a path or a URL by name, as inputs of rules.

    Those of a bucket are fetched by Snakemake for the jobs that name them.
    """
    if is_url(root):
        # Of nodes that fetch for themselves, Snakemake 9.27 would await the copies that it would
        # have made here.
        shared = workflow.storage_settings.shared_fs_usage
        retrieve = workflow.remote_exec or SharedFSUsage.STORAGE_LOCAL_COPIES in shared
        return find_stored_parts(root, storage, key, retrieve)
    if root == f"{DEMO}/train" and not locate(root).exists():
        return {Path(part).name: part for part in DEMO_PARTS}
    return {name: str(path) for name, path in find_parts(locate(root), key).items()}


def test_file(name):
    """Return a file of test_root, or stop with one line."""
    path = locate(CONFIG.test_root) / name
    if not path.exists() and CONFIG.test_root != f"{DEMO}/test":
        raise UnmaskError(
            f"test_root: no {path}; it must hold test_videos/ and sample_submission.csv"
        )
    return str(path)


def image():
    """Return the image of jobs: an address, a file, or None where jobs run in none."""
    name = CONFIG.container
    if not name and IN_CONTAINER:
        raise UnmaskError(
            "container: --sdm apptainer asks for an image; make one (docs/cluster.md) and name it: "
            "--config container=unmask.sif"
        )
    if not name or "://" in name:
        return name
    if IN_CONTAINER and not locate(name).exists():
        raise UnmaskError(f"container: no image {name} here or in the repository")
    return str(locate(name))


def settings(*keys):
    """Return sections and keys of the configuration as JSON: what a rule depends on.

    Keys that change no result, such as the number of GPUs, are left out (`Machine` in
    unmask.config). A job that needs them has them as a resource, which Snakemake does not compare.
    """
    return CONFIG.select(*keys)


def training_settings(wildcards):
    """Return the settings that determine the models of one experiment, recipe included."""
    of_noise = ("audits.label_noise", "audits.soft_target")
    return CONFIG.for_experiment(wildcards.experiment).select("training", *of_noise)


def training_machine(wildcards):
    """Return how one experiment's models are trained, which does not change them."""
    return CONFIG.for_experiment(wildcards.experiment).machine("training")


def batch_size(wildcards):
    """Return the number of crops that an experiment's models score at once."""
    return CONFIG.experiment(wildcards.experiment).batch_size


def devices(wildcards):
    """Return the number of GPUs of one experiment's jobs."""
    experiment = CONFIG.experiment(wildcards.experiment)
    return experiment.devices * experiment.num_nodes


def of_several(value):
    """Return an input function of what only a job of several GPUs has; None for others."""
    return lambda wildcards: value(wildcards) if devices(wildcards) > 1 else None


def nodes(wildcards):
    """Return the number of nodes of one experiment's jobs."""
    return CONFIG.experiment(wildcards.experiment).num_nodes


def launcher(wildcards):
    """Return what starts a process for each GPU: `srun` under Slurm, elsewhere Lightning does."""
    tasks, on = devices(wildcards), nodes(wildcards)
    if tasks == 1:
        return ""
    # Lightning insists on a number per node.
    return f"${{SLURM_JOB_ID:+srun --nodes={on} --ntasks={tasks} --ntasks-per-node={tasks // on}}}"


def parts_of_shard(wildcards):
    """Return the folders and the archives of a shard's parts."""
    return PARTS_OF_SHARD[wildcards.shard]


def metadata_of(wildcards):
    """Return the metadata.json of a shard's folders; archives hold theirs."""
    parts = [part for part in parts_of_shard(wildcards) if part not in DEMO_PARTS]
    return [f"{part}/metadata.json" for part in parts if Path(part).is_dir()]


def chunk_of(wildcards):
    """Return the number of a shard's chunk."""
    return wildcards.shard.rpartition("-")[2]


def is_piped():
    """Tell whether frames flow through a pipe.

    It needs both of its ends running at once, which one core cannot; jobs that an executor starts
    are given a core for each.
    """
    one_core = workflow.resource_settings.cores == 1 and not workflow.remote_exec
    return not (CONFIG.frames.keep or one_core)


def frame_stream(path):
    """Return the frame stream's output flag: a pipe, a file, or a file that is deleted after use."""
    if is_piped():
        return pipe(path)
    return path if CONFIG.frames.keep else temp(path)


def growing(**amounts):
    """Return memory and run time as resources: twice as much for a second try, and so on."""
    return {
        name: lambda wildcards, attempt, amount=amount: attempt * amount
        for name, amount in amounts.items()
    }


def frames_memory(wildcards, attempt):
    """Return megabytes for one video's frames at 4K, more where a first try was not enough."""
    # At a rate, a minute of video.
    frames = CONFIG.frames.per_video if CONFIG.frames.rate is None else 60 * CONFIG.frames.rate
    return attempt * max(1500, round(15 * min(1000, frames)) + 1000)


def weights(path):
    """Return the flag of trained weights: write-protected where the configuration asks for it."""
    return protected(path) if CONFIG.protect else path


def figure(path, category, label, caption=None):
    """Return a result that the report shows.

    Its text is workflow/report/CAPTION.rst, by default that of the file's name.
    """
    of_experiment = {"experiment": "{experiment}"} if "{experiment}" in path else {}
    return report(
        path,
        caption=f"../report/{caption or Path(path).stem}.rst",
        category=category,
        subcategory=of_experiment.get("experiment"),
        labels={**of_experiment, "figure": label},
    )


def models_of(pattern):
    """Return an input function that expands a pattern over an experiment's models."""
    return lambda wildcards: expand(
        pattern, experiment=wildcards.experiment, model=MODELS[wildcards.experiment]
    )


def of_all_models(pattern):
    """Return a pattern's files for every model of every experiment."""
    return [
        path
        for experiment, models in MODELS.items()
        for path in expand(pattern, experiment=experiment, model=models)
    ]


def shards_in(root, parts, folder=""):
    """Return the shards of the parts below a path or a URL by name, each with its parts' paths."""
    several = CONFIG.parts_per_shard
    if several == "auto" and (is_url(root) or root == f"{DEMO}/train"):
        several = 1  # How many videos a part has is not known before it is fetched or made.
    named = shards_of(parts, several, CONFIG.shards_per_part)
    return {f"{folder}{name}": paths for name, paths in named.items()}


def of_set(pattern):
    """Return an input function that expands a pattern over the shards of an external set."""
    return lambda wildcards: expand(pattern, shard=SETS[wildcards.set])


try:
    CONFIG = load_config(config, ROOT)
    PARTS = parts_of(CONFIG.data_root)
    PARTS_OF_SHARD = shards_in(CONFIG.data_root, PARTS)
    # In a folder of their own, so that no part of a set is taken for one of the data.
    SHARDS_OF_SETS = {
        name: shards_in(path, parts_of(path, f"evaluation.sets.{name}"), f"sets/{name}/")
        for name, path in CONFIG.evaluation.sets.items()
    }
    TEST = (
        [test_file("sample_submission.csv"), test_file("test_videos")] if CONFIG.test_root else []
    )
    IMAGE = image()
except UnmaskError as error:
    sys.exit(f"unmask: {error}")

if IN_CONTAINER:
    # Snakemake lets a container see the working directory alone.
    roots = [CONFIG.data_root, CONFIG.test_root, *CONFIG.evaluation.sets.values()]
    folders = [locate(root).resolve() for root in roots if root and not is_url(root)]
    seen = [str(path) for path in (ROOT, *folders) if path.exists()]
    for name in ("APPTAINER_BIND", "SINGULARITY_BIND"):
        bound = filter(None, [os.environ.get(name), *seen])
        os.environ.update({name: ",".join(bound)})

# Of parts that are fetched, one is done with before the next comes.
FETCHED = any(map(is_url, [CONFIG.data_root, *CONFIG.evaluation.sets.values()]))
# What shows a few videos of all parts is content with one that is fetched.
PARTS_TO_SHOW = list(PARTS.values())[: 1 if is_url(CONFIG.data_root) else None]
SHARDS = list(PARTS_OF_SHARD)
# What most rules read of the faces, as inputs.
FACES = {
    "shards": expand("results/faces/{shard}.tar", shard=SHARDS),
    "indices": expand("results/faces/{shard}.parquet", shard=SHARDS),
}
SETS = {name: list(shards) for name, shards in SHARDS_OF_SETS.items()}
for shards in SHARDS_OF_SETS.values():
    PARTS_OF_SHARD |= shards
MODELS = {
    name: [f"fold{fold}-seed{seed}" for fold, seed in CONFIG.models(name)]
    for name in CONFIG.experiments
}
BUNDLE = f"results/kaggle/{CONFIG.kaggle.bundle}"
AUDIO = (
    [] if CONFIG.audio.extract == "none" else expand("results/audio/{shard}.parquet", shard=SHARDS)
)
IDENTITIES = expand("results/identities/{shard}.parquet", shard=SHARDS)
SPLIT_BY = IDENTITIES if CONFIG.split.group_by == "identity" else []
NOISE = (
    []
    if CONFIG.audits.label_noise == "keep"
    else expand("results/noise/{shard}.parquet", shard=SHARDS)
)
LABEL_AUDIT = ["results/audits/label_noise.json"] if NOISE else []
DETECTORS = ["results/detectors/comparison.csv"] if CONFIG.audits.detectors else []
EXTERNAL = ["results/evaluation/sets.csv"] if SETS else []
# A model chooses on the fold after the one it reports on.
ASKED_FOLDS = sorted(
    {
        (fold + after) % CONFIG.split.folds
        for name in CONFIG.experiments
        for fold, _ in CONFIG.models(name)
        for after in (0, 1)
    }
)
SHIFTED = (
    expand("results/evaluation/{experiment}/shifts.json", experiment=MODELS)
    if CONFIG.evaluation.shift_videos
    else []
)
SUBMISSION = ["results/submission.csv"] if CONFIG.test_root else []


wildcard_constraints:
    shard="|".join(map(re.escape, PARTS_OF_SHARD)),
    set="|".join(map(re.escape, SETS)) or "none",
    experiment="|".join(map(re.escape, MODELS)),
    fold=r"\d+",
    seed=r"\d+",
