"""Evaluation: logits per face, then calibrated probabilities and figures per video.

INPUTS
    results/train/EXPERIMENT/foldFOLD-seedSEED/, face shards, results/splits.parquet

OUTPUTS
    results/scores/EXPERIMENT/foldFOLD-seedSEED.parquet   a row per face the model was not trained on
    results/evaluation/EXPERIMENT/                        metrics.json, calibration.json, videos.parquet, figures
    results/evaluation/comparison.csv, .svg               all experiments
"""


rule score:
    input:
        model="results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
        splits="results/splits.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        "results/scores/{experiment}/fold{fold}-seed{seed}.parquet",
    log:
        "logs/score/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/score/{experiment}/fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=8000,
        gpu=1,
        runtime=240,
    params:
        settings=training_settings,
        code=source_digest("evaluation.score"),
    shell:
        r"""
        python -m unmask score \
            --log {log:q} \
            --model {input.model:q} \
            --run {input.run:q} \
            --splits {input.splits:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --threads {threads:q} \
            --settings {params.settings:q} \
            --out {output:q}
        """


rule evaluate:
    input:
        scores=models_of("results/scores/{experiment}/{model}.parquet"),
        runs=models_of("results/train/{experiment}/{model}/run.json"),
        splits="results/splits.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        metrics=report(
            "results/evaluation/{experiment}/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Metrics"},
        ),
        calibration="results/evaluation/{experiment}/calibration.json",
        predictions="results/evaluation/{experiment}/videos.parquet",
        curves=report(
            "results/evaluation/{experiment}/curves.svg",
            caption="../report/curves.rst",
            category="Training",
            labels={"experiment": "{experiment}", "figure": "Curves"},
        ),
        roc=report(
            "results/evaluation/{experiment}/roc.svg",
            caption="../report/roc.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "ROC"},
        ),
        reliability=report(
            "results/evaluation/{experiment}/reliability.svg",
            caption="../report/reliability.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Reliability"},
        ),
        answers=report(
            "results/evaluation/{experiment}/answers.svg",
            caption="../report/answers.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Answers"},
        ),
        confusion=report(
            "results/evaluation/{experiment}/confusion.svg",
            caption="../report/confusion.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Confusion"},
        ),
        mistakes=report(
            "results/evaluation/{experiment}/mistakes.png",
            caption="../report/mistakes.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Mistakes"},
        ),
    log:
        "logs/evaluate/{experiment}.log",
    benchmark:
        "benchmarks/evaluate/{experiment}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings("evaluation"),
        code=source_digest("evaluation.evaluate"),
    shell:
        r"""
        python -m unmask evaluate \
            --log {log:q} \
            --scores {input.scores:q} \
            --runs {input.runs:q} \
            --splits {input.splits:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --settings {params.settings:q} \
            --out "$(dirname {output.metrics:q})"
        """


rule compare:
    input:
        expand("results/evaluation/{experiment}/metrics.json", experiment=MODELS),
    output:
        table=report(
            "results/evaluation/comparison.csv",
            caption="../report/comparison.rst",
            category="Experiments",
            labels={"figure": "Table"},
        ),
        figure=report(
            "results/evaluation/comparison.svg",
            caption="../report/comparison.rst",
            category="Experiments",
            labels={"figure": "Log loss"},
        ),
    log:
        "logs/compare.log",
    benchmark:
        "benchmarks/compare.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=source_digest("evaluation.evaluate"),
    shell:
        r"""
        python -m unmask compare \
            --log {log:q} \
            --metrics {input:q} \
            --table {output.table:q} \
            --figure {output.figure:q}
        """
