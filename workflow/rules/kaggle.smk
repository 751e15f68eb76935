"""Kaggle: the upload folder, and the test set answered from it alone.

INPUTS
    results/train/, results/evaluation/, the test set

OUTPUTS
    results/kaggle/BUNDLE/     weights, calibration, code: everything that answers a test set
    results/submission.csv     filename,label for every row of sample_submission.csv
"""


rule export:
    input:
        models=of_all_models("results/train/{experiment}/{model}/model.safetensors"),
        runs=of_all_models("results/train/{experiment}/{model}/run.json"),
        calibrations=expand(
            "results/evaluation/{experiment}/calibration.json", experiment=MODELS
        ),
        comparison="results/evaluation/comparison.json",
        # Real faces, on which the shipped weights must answer as the trained ones.
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
        # What the model card tells of.
        splits="results/splits.parquet",
        ledger="results/ledger.json",
        # Of shifts it tells what is known at the time: clips that are shifted otherwise are no reason
        # to answer a test set again, for hours.
        shifts=ancient(SHIFTED),
    output:
        directory(BUNDLE),
    log:
        "logs/export.log",
    benchmark:
        "benchmarks/export.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        settings=settings("frames", "limits", "faces", "evaluation", "kaggle"),
        # The bundle carries the code that predicts.
        code=source_digest("kaggle.bundle"),
    shell:
        r"""
        python -m unmask export \
            --log {log:q} \
            --models {input.models:q} \
            --runs {input.runs:q} \
            --evaluation results/evaluation \
            --comparison {input.comparison:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --splits {input.splits:q} \
            --ledger {input.ledger:q} \
            --shifts {input.shifts:q} \
            --threads {threads:q} \
            --settings {params.settings:q} \
            --output {output:q}
        """


rule predict:
    input:
        bundle=BUNDLE,
        test=TEST,
    output:
        "results/submission.csv",
    log:
        "logs/predict.log",
    benchmark:
        "benchmarks/predict.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        gpu=1,
        runtime=growing(540),
    params:
        # A cluster ends a job at its runtime; then every video is to have its answer.
        minutes=lambda wildcards, resources: 0.95 * resources.runtime,
    shell:
        r"""
        python {input.bundle:q}/predict.py \
            --log {log:q} \
            --videos {input.test[1]:q} \
            --sample {input.test[0]:q} \
            --threads {threads:q} \
            --deadline {params.minutes:q}m \
            --out {output:q}
        """
