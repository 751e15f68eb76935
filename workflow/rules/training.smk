"""Training: one job per experiment, fold and seed.

results/experiments.csv      the models of each experiment and their sizes
results/train/EXPERIMENT/foldFOLD-seedSEED/
    model.safetensors        the epoch with the lowest val/log_loss
    run.json                 parameters and history, also for the MLflow run
    checkpoints/             only until the job is done: a killed one resumes from them
"""


rule experiments:
    input:
        metadata=CHECKED,
    output:
        figure("results/experiments.csv", "Experiments", "Models"),
    log:
        "logs/experiments.log",
    benchmark:
        "benchmarks/experiments.tsv"
    # Before the first video is opened, see OR_END_THE_RUN. No rule has the table as input: with
    # ancient(), a new experiment would only be trained in the next run, because Snakemake ignores
    # other reasons for a job while the job of an input runs.
    priority: 100
    localrule: True
    conda:
        "../../environment.yml"
    threads: ALL_CORES
    resources:
        **growing(mem_mb=4000, runtime=30),
        machine=CONFIG.machine("training", "experiments"),
    params:
        settings=settings("training", "experiments", "seed", "kaggle.max_bytes"),
        metadata=lambda wildcards, input: f"--metadata {input.metadata}" if input.metadata else "",
        code=source_digest("training.experiments"),
        or_else=OR_END_THE_RUN,
    shell:
        "python -m unmask training.experiments:check_experiments --log {log:q} "
        "--settings {params.settings:q} {resources.machine:q} --output {output:q} {params.metadata} "
        "{params.or_else}"


WEIGHTS = ensure(
    "results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors", non_empty=True
)


rule train:
    input:
        **FACES,
        # May stop the run (audits.on_shortcut), but changes no model.
        shortcuts=ancient("results/audits/shortcuts.json"),
        splits="results/splits.parquet",
        noise=NOISE,
    output:
        model=protected(WEIGHTS) if CONFIG.protect else WEIGHTS,
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
    log:
        "logs/train/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/train/{experiment}/fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 8  # to decode and augment for one GPU; more are not used
    resources:
        **growing(mem_mb=16000, runtime=1440),
        **lists("indices", "noise"),
        gpu=devices,
        # Slurm starts a process for each GPU and tells them how to reach each other.
        mpi=of_several(lambda wildcards: "srun"),
        tasks=of_several(devices),
        tasks_per_gpu=of_several(lambda wildcards: 1),
        nodes=of_several(training("num_nodes")),
        launcher=launcher,
        machine=lambda wildcards: CONFIG.for_experiment(wildcards.experiment).machine("training"),
        tracking_uri=CONFIG.tracking.address,
        tracking_experiment=CONFIG.tracking.experiment,
    params:
        folds=CONFIG.split.folds,
        settings=training_settings,
        code=lambda wildcards: source_digest("training.fit", training_settings(wildcards)),
    shell:
        "{resources.launcher} python -m unmask training.fit:fit --log {log:q} "
        "--experiment {wildcards.experiment:q} --fold {wildcards.fold:q} --folds {params.folds} "
        "--seed {wildcards.seed:q} --threads {threads:q} "
        "--settings {params.settings:q} {resources.machine:q} "
        "--tracking-uri {resources.tracking_uri:q} "
        "--tracking-experiment {resources.tracking_experiment:q} --splits {input.splits:q} "
        "--shards results/faces --indices {resources.indices} --noise {resources.noise} "
        '--output "$(dirname {output.model:q})"'
