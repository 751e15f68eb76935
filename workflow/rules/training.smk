"""Training: one job per experiment, fold and seed.

INPUTS
    face shards and indices, results/splits.parquet, results/audits/shortcuts.json

OUTPUTS
    results/experiments.csv      every experiment's models, their sizes, and that they can be made
    results/train/EXPERIMENT/foldFOLD-seedSEED/
        model.safetensors        best epoch on the select role
        run.json                 parameters, history, what MLflow's run is created from
        checkpoints/             only while the job is not done: what a killed one goes on from
"""


rule experiments:
    output:
        report(
            "results/experiments.csv",
            caption="../report/experiments.rst",
            category="Experiments",
            labels={"figure": "Models"},
        ),
    log:
        "logs/experiments.log",
    benchmark:
        "benchmarks/experiments.tsv"
    # Before all others: a misspelt backbone is told at once, not after the last face is cropped. No
    # rule waits for it: one that did, by ancient(), would wait for the next run of Snakemake when
    # an experiment is added (a job that is to run hides the reasons of what follows it).
    priority: 100
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        settings=experiment_settings(),
        code=source_digest("training.experiments"),
    shell:
        r"""
        python -m unmask check-experiments \
            --log {log:q} \
            --settings {params.settings:q} \
            --output {output:q}
        """


rule train:
    input:
        # May stop the run (audits.on_shortcut); what it says changes no model.
        shortcuts=ancient("results/audits/shortcuts.json"),
        splits="results/splits.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
        noise=NOISE,
    output:
        model=weights(
            ensure(
                "results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
                non_empty=True,
            )
        ),
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
    log:
        "logs/train/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/train/{experiment}/fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 8  # decoding and augmenting for one GPU; more than that many are not used
    resources:
        mem_mb=growing(16000),
        gpu=devices,
        runtime=growing(1440),
        # Slurm starts a process for each GPU, which meet by what it tells them.
        mpi=of_several(lambda wildcards: "srun"),
        tasks=of_several(devices),
        tasks_per_gpu=of_several(lambda wildcards: 1),
        nodes=of_several(nodes),
    params:
        launcher=launcher,
        folds=CONFIG.split.folds,
        settings=training_settings,
        code=source_digest("training.fit"),
    shell:
        r"""
        {params.launcher} python -m unmask train \
            --log {log:q} \
            --experiment {wildcards.experiment:q} \
            --fold {wildcards.fold:q} \
            --folds {params.folds} \
            --seed {wildcards.seed:q} \
            --threads {threads:q} \
            --settings {params.settings:q} \
            --tracking-uri {CONFIG.tracking.address:q} \
            --tracking-experiment {CONFIG.tracking.experiment:q} \
            --splits {input.splits:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --noise {input.noise:q} \
            --output "$(dirname {output.model:q})"
        """
