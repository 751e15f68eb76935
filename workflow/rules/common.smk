"""The configuration, validated before any job starts, and the helpers that rules are written with.

To know all jobs, parts are listed (50 folders), but not their videos. Where videos are is a resource,
which Snakemake does not compare, and what they are a parameter: data that move are the same data.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from snakemake.io import is_flagged
from snakemake.settings.types import DeploymentMethod, SharedFSUsage

from unmask.config import OFFICIAL
from unmask.config_files import load_config, locate
from unmask.errors import UnmaskError
from unmask.files import atomic_path
from unmask.provenance import source_digest
from unmask.videos.buckets import find_stored_parts, is_url
from unmask.videos.inventory import check_inventory, token_of_test_set
from unmask.videos.source import find_parts, shards_of

# Jobs run the interpreter that runs Snakemake, whether or not its environment is activated; in a
# container or a conda environment, they run the one that is first in its PATH.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    # PID of the Snakemake process; jobs exit when it exits.
    UNMASK_SNAKEMAKE=f"{platform.node()}:{os.getpid()}",
)
# Jobs import the code whose digest is their parameter. Exported in their shell, because Snakemake
# removes PYTHONPATH from conda environments.
shell.prefix(
    f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(ROOT / 'src'))}"
    "${{PYTHONPATH:+:$PYTHONPATH}}; "
)
IN_CONTAINER = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
# The miniature challenge. The rule `demo` writes it if it does not exist.
DEMO = "resources/demo"
DEMO_PARTS = [f"{DEMO}/train/dfdc_train_part_{part}" for part in (0, 1)]


def parts_of(root, key="data_root"):
    """Return the parts below a path or a URL by name; Snakemake fetches those of a bucket."""
    if is_url(root):
        # Where nodes fetch for themselves, Snakemake 9.27 would wait for copies nobody makes.
        shared = workflow.storage_settings.shared_fs_usage
        retrieve = workflow.remote_exec or SharedFSUsage.STORAGE_LOCAL_COPIES in shared
        return find_stored_parts(root, storage, key, retrieve)
    if root == f"{DEMO}/train" and not locate(root).exists():
        return {Path(part).name: part for part in DEMO_PARTS}
    parts = {name: str(path) for name, path in find_parts(locate(root), key).items()}
    if braced := [path for name, path in parts.items() if set("{}") & set(name)]:
        raise UnmaskError(
            f"{key}: {braced[0]}: Snakemake has another use for braces; rename the folder"
        )
    return parts


def test_file(name):
    """Return a file of test_root."""
    path = locate(CONFIG.test_root) / name
    if not path.exists() and CONFIG.test_root != f"{DEMO}/test":
        raise UnmaskError(
            f"test_root: no {path}; it must hold test_videos/ and sample_submission.csv"
        )
    return str(path)


def image():
    """Return the container image of jobs: an address, a file, or None."""
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


def given_split():
    """Return the file of split.file, if it is one."""
    name = CONFIG.split.file
    if name in (None, OFFICIAL):
        return []
    if not locate(name).is_file():
        raise UnmaskError(f"split.file: no file {name} here or in the repository")
    return [str(locate(name))]


def linked_folders(parts):
    """Return the folders that the links of parts lead to, one for each part."""
    for part in map(Path, parts):
        links = (
            [one.resolve() for one in part.iterdir() if one.is_symlink()] if part.is_dir() else []
        )
        if links:
            yield Path(os.path.commonpath([one.parent for one in links]))


def training_settings(wildcards):
    """Return the settings that determine the models of one experiment, recipe included."""
    config = CONFIG.for_experiment(wildcards.experiment)
    return config.select("training", "audits.label_noise", "audits.soft_target")


def training(key):
    """Return an input function of one key of an experiment's `training`."""
    return lambda wildcards: getattr(CONFIG.experiment(wildcards.experiment), key)


def devices(wildcards):
    """Return the number of GPUs of one experiment's jobs."""
    experiment = CONFIG.experiment(wildcards.experiment)
    return experiment.devices * experiment.num_nodes


def of_several(value):
    """Return an input function that is None for jobs of one GPU."""
    return lambda wildcards: value(wildcards) if devices(wildcards) > 1 else None


def launcher(wildcards):
    """Return the command that starts a process per GPU under Slurm; else Lightning starts them."""
    tasks, on = devices(wildcards), training("num_nodes")(wildcards)
    if tasks == 1:
        return ""
    # Lightning requires the number per node.
    return f"${{SLURM_JOB_ID:+srun --nodes={on} --ntasks={tasks} --ntasks-per-node={tasks // on}}}"


def made(parts):
    """Return those of some parts that Snakemake fetches, or that the rule `demo` makes."""
    return [ancient(part) if part in DEMO_PARTS else part for part in parts if not on_disk(part)]


def on_disk(part):
    """Return whether a part is there before any job has run."""
    return not is_flagged(part, "storage_object") and part not in DEMO_PARTS


def places(parts):
    """Return the other parts, quoted for the shell."""
    return shlex.join(filter(on_disk, parts))


def local(parts):
    """Return the paths of the parts that no job has to fetch."""
    return [Path(part) for part in parts if not is_flagged(part, "storage_object")]


def of_shard(function):
    """Return an input function that applies a function to the parts of a shard."""
    return lambda wildcards: function(PARTS_OF_SHARD[wildcards.shard])


def held(shard):
    """Return token and labels of what a shard's parts hold; None if they are in a bucket or absent."""
    parts = local(PARTS_OF_SHARD[shard])
    if not parts or not all(map(Path.exists, parts)):
        return None
    if workflow.dryrun and not Path(f"results/probe/{shard}.parquet").exists():
        return None  # The plan of a first run needs no look at the videos.
    path, chunk = Path(f"results/inventory/{shard}.json"), int(shard.rpartition("-")[2])
    try:
        inventory = check_inventory(path, parts, chunk, CONFIG.shards_per_part)
    except UnmaskError:
        return None  # The probe fails in one line.
    return inventory.token, inventory.labels


@cache
def all_held():
    """Return what all shards hold, which are looked at in parallel."""
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(PARTS_OF_SHARD, pool.map(held, PARTS_OF_SHARD)))


def videos(wildcards):
    """Return the token of a shard's videos; the job of one shard looks at no other."""
    known = all_held()[wildcards.shard] if workflow.is_main_process else None
    return (known or held(wildcards.shard) or ("", ""))[0]


def labels(shards):
    """Return a digest of what metadata.json says of the videos of some shards."""
    said = [(all_held()[shard] or held(shard) or ("", ""))[1] for shard in shards]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def test_videos(wildcards):
    """Return a token of the test set; "" before the rule `demo` has made it."""
    return token_of_test_set(*map(Path, TEST)) if all(map(os.path.exists, TEST)) else ""


def list_file(paths):
    """Write paths to a file that is named by its content; return it as an argument, @FILE."""
    text = "".join(f"{path}\n" for path in paths)
    file = Path(".snakemake/lists", hashlib.sha256(text.encode()).hexdigest()[:16])
    if not file.exists():
        with atomic_path(file) as temporary:
            temporary.write_text(text)
    return f"@{file}"


def lists(*names):
    """Return inputs as resources: files with a path per line."""
    return {
        name: lambda wildcards, input, name=name: list_file(getattr(input, name)) for name in names
    }


def growing(**amounts):
    """Return memory and run time as resources that grow with each attempt: twice, three times …"""
    return {
        name: lambda wildcards, attempt, amount=amount: attempt * amount
        for name, amount in amounts.items()
    }


def figure(path, category, label, caption=None):
    """Return an output that the report shows with report/CAPTION.rst, by default of its name."""
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


def of_all_models(pattern, **wildcards):
    """Return the files of a pattern for every model of every experiment."""
    return [
        path
        for experiment, models in MODELS.items()
        for path in expand(pattern, experiment=experiment, model=models, **wildcards)
    ]


def shards_in(root, parts, folder=""):
    """Return the shards of some parts by name, each with the paths of its parts."""
    several = CONFIG.parts_per_shard
    if several == "auto" and (is_url(root) or root == f"{DEMO}/train"):
        several = 1  # The number of videos is unknown before a part is fetched or written.
    named = shards_of(parts, several, CONFIG.shards_per_part)
    return {f"{folder}{name}": paths for name, paths in named.items()}


def when(condition, pattern, **wildcards):
    """Return the files of a pattern if a condition holds, else none."""
    return expand(pattern, **wildcards) if condition else []


def of_set(pattern):
    """Return an input function that expands a pattern over the shards of an external set."""
    return lambda wildcards: expand(pattern, shard=SETS[wildcards.set])


try:
    CONFIG = load_config(config, ROOT)
    PARTS = parts_of(CONFIG.data_root)
    PARTS_OF_SHARD = shards_in(CONFIG.data_root, PARTS)
    # In folders of their own, because a part of a set can have the name of a part of the data.
    PARTS_OF_SETS = {
        name: parts_of(path, f"evaluation.sets.{name}")
        for name, path in CONFIG.evaluation.sets.items()
    }
    SHARDS_OF_SETS = {
        name: shards_in(path, PARTS_OF_SETS[name], f"sets/{name}/")
        for name, path in CONFIG.evaluation.sets.items()
    }
    TEST = [*map(test_file, ("sample_submission.csv", "test_videos"))] if CONFIG.test_root else []
    IMAGE = image()
    GIVEN_SPLIT = given_split()
except UnmaskError as error:
    sys.exit(f"unmask: {error}")

if IN_CONTAINER:
    # Snakemake mounts the working directory only.
    roots = [CONFIG.data_root, CONFIG.test_root, *CONFIG.evaluation.sets.values()]
    folders = [locate(root).resolve() for root in roots if root and not is_url(root)]
    sets = [
        part for shards in SHARDS_OF_SETS.values() for parts in shards.values() for part in parts
    ]
    folders += {*linked_folders(PARTS.values()), *linked_folders(sets)}
    seen = [str(path) for path in (ROOT, *folders) if path.exists()]
    for name in ("APPTAINER_BIND", "SINGULARITY_BIND"):
        bound = filter(None, [os.environ.get(name), *seen])
        os.environ.update({name: ",".join(bound)})

# Parts that are fetched are finished one by one, so that few are on the disk at a time.
FETCHED = any(map(is_url, [CONFIG.data_root, *CONFIG.evaluation.sets.values()]))
# The parts of rules that show some videos: all, but only one if they must be fetched.
PARTS_TO_SHOW = list(PARTS.values())[: 1 if is_url(CONFIG.data_root) else None]
# The JSON of the sections and keys that a rule depends on. Keys that change no result (`Machine` in
# unmask.config) are left out: jobs get them as resources, which Snakemake does not compare.
settings = CONFIG.select
SHARDS = list(PARTS_OF_SHARD)  # PART-CHUNK, or one name for several parts
# Frames go through a pipe, whose ends run at the same time. Executors other than the local one
# allocate a core for each end.
PIPED = not CONFIG.frames.keep and (workflow.resource_settings.cores != 1 or workflow.remote_exec)
# Megabytes of one video's frames at 4K; with a rate, of a minute of video.
PER_VIDEO = 60 * CONFIG.frames.rate if CONFIG.frames.rate else CONFIG.frames.per_video
FRAMES_MB = max(1500, round(15 * min(1000, PER_VIDEO)) + 1000)
# The inputs of rules that read all faces.
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
UPLOAD = f"{BUNDLE}.upload.json"
CALIBRATIONS = expand("results/evaluation/{experiment}/calibration.json", experiment=MODELS)
IDENTITIES = expand("results/identities/{shard}.parquet", shard=SHARDS)
# Parts that must be fetched are not read in advance.
CHECKED = when(not is_url(CONFIG.data_root), "results/metadata.json")
# Checks run before all other jobs, with the highest priority and all cores. What fails them would
# fail hours later, so they end the run even with --keep-going; Snakemake then exits as on SIGTERM.
ALL_CORES = workflow.resource_settings.cores or 1
OR_END_THE_RUN = "|| { kill ${UNMASK_SNAKEMAKE##*:}; exit 2; }"
# Results that only some configurations ask for.
AUDIO = when(CONFIG.audio.extract != "none", "results/audio/{shard}.parquet", shard=SHARDS)
NOISE = when(CONFIG.audits.label_noise != "keep", "results/noise/{shard}.parquet", shard=SHARDS)
LABEL_AUDIT = when(NOISE, "results/audits/label_noise.json")
DETECTORS = when(CONFIG.audits.detectors, "results/detectors/comparison.csv")
EXTERNAL = when(SETS, "results/evaluation/sets.csv")
SHIFTED = when(
    CONFIG.evaluation.shift_videos,
    "results/evaluation/{experiment}/shifts.json",
    experiment=MODELS,
)
SUBMISSION = when(CONFIG.test_root, "results/submission.csv")
# The test folds of all models and their validation folds, each of which is the next fold.
TESTED = {fold for name in CONFIG.experiments for fold, _ in CONFIG.models(name)}
ASKED_FOLDS = sorted(TESTED | {(fold + 1) % CONFIG.split.folds for fold in TESTED})


wildcard_constraints:
    shard="|".join(map(re.escape, PARTS_OF_SHARD)),
    set="|".join(map(re.escape, SETS)) or "none",
    experiment="|".join(map(re.escape, MODELS)),
    fold=r"\d+",
    seed=r"\d+",
