"""External sets: data that every model predicts, but that nothing is trained or chosen on.

The rules of videos.smk and faces.smk process the parts of a set as shards sets/SET/SHARD.

results/sets/SET/videos.parquet, ledger.json    the ledger of the set
results/sets/SET/scores/EXPERIMENT/             a row per face
results/evaluation/sets.csv, .svg               all experiments on all sets
"""


use rule ledger as set_ledger with:
    input:
        probes=of_set("results/probe/{shard}.parquet"),
        cropped=of_set("results/faces/{shard}.videos.parquet"),
    output:
        ledger="results/sets/{set}/videos.parquet",
        summary="results/sets/{set}/ledger.json",
    log:
        "logs/set_ledger/{set}.log",
    benchmark:
        "benchmarks/set_ledger/{set}.tsv"
    resources:
        **growing(mem_mb=2000, runtime=10),
        **lists("probes", "cropped"),
        parts=lambda wildcards: list_file(local(PARTS_OF_SETS[wildcards.set].values())),
    params:
        labels=lambda wildcards: labels(SETS[wildcards.set]),
        code=source_digest("videos.ledger"),


use rule score as score_set with:
    input:
        model="results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
        ledger="results/sets/{set}/videos.parquet",
        shards=of_set("results/faces/{shard}.tar"),
        indices=of_set("results/faces/{shard}.parquet"),
    output:
        scores="results/sets/{set}/scores/{experiment}/fold{fold}-seed{seed}.parquet",
        speed="results/sets/{set}/scores/{experiment}/fold{fold}-seed{seed}.json",
    log:
        "logs/score_set/{set}/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/score_set/{set}/{experiment}/fold{fold}-seed{seed}.tsv"
    params:
        videos="--shards results/faces/sets/{set} --ledger results/sets/{set}/videos.parquet",
        settings=settings("evaluation.flip"),
        code=source_digest("inference.score"),


rule evaluate_sets:
    input:
        scores=of_all_models(
            "results/sets/{set}/scores/{experiment}/{model}.parquet", set=list(SETS)
        ),
        calibrations=CALIBRATIONS,
        runs=of_all_models("results/train/{experiment}/{model}/run.json"),
        ledgers=expand("results/sets/{set}/videos.parquet", set=SETS),
        ledger="results/videos.parquet",
    output:
        table=figure("results/evaluation/sets.csv", "Experiments", "External sets, table"),
        details="results/evaluation/sets.json",
        figure=figure("results/evaluation/sets.svg", "Experiments", "External sets"),
    log:
        "logs/evaluate_sets.log",
    benchmark:
        "benchmarks/evaluate_sets.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=30),
    params:
        names=list(SETS),
        settings=settings("evaluation.resamples"),
        code=source_digest("evaluation.external_sets"),
    shell:
        "python -m unmask evaluation.external_sets:evaluate_sets --log {log:q} --names {params.names:q} "
        "--ledgers {input.ledgers:q} --ledger {input.ledger:q} --runs {input.runs:q} "
        "--settings {params.settings:q} --results results --table {output.table:q} --details {output.details:q} "
        "--figure {output.figure:q}"
