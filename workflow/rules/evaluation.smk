"""Evaluation: logits of faces, then calibrated probabilities and metrics of videos.

INPUTS
    results/train/EXPERIMENT/foldFOLD-seedSEED/, face shards, results/splits.parquet

OUTPUTS
    results/scores/EXPERIMENT/foldFOLD-seedSEED.parquet   a row per face the model was not trained on
    results/scores/EXPERIMENT/foldFOLD-seedSEED.json      size and speed of the model
    results/evaluation/EXPERIMENT/
        metrics.json          with 95 % intervals; by fold, model and subgroup
        calibration.json      the scoring head of each model
        predictions.parquet   validation and test predictions of each fold
        out_of_fold.parquet   the test prediction of each video of the ledger
        page.html, figures
    results/evaluation/comparison.csv, .json, .svg, .html   all experiments
"""


rule score:
    input:
        model="results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
        splits="results/splits.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        scores="results/scores/{experiment}/fold{fold}-seed{seed}.parquet",
        speed="results/scores/{experiment}/fold{fold}-seed{seed}.json",
    log:
        "logs/score/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/score/{experiment}/fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        gpu=1,
        runtime=growing(240),
        batch_size=batch_size,
    params:
        code=source_digest("inference.score"),
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
            --batch-size {resources.batch_size} \
            --output {output.scores:q} \
            --speed {output.speed:q}
        """


rule evaluate:
    input:
        scores=models_of("results/scores/{experiment}/{model}.parquet"),
        runs=models_of("results/train/{experiment}/{model}/run.json"),
        splits="results/splits.parquet",
        ledger="results/videos.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        experiment=report(
            "results/evaluation/{experiment}/page.html",
            caption="../report/experiment.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Page"},
        ),
        metrics=report(
            "results/evaluation/{experiment}/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Metrics"},
        ),
        calibration="results/evaluation/{experiment}/calibration.json",
        predictions="results/evaluation/{experiment}/predictions.parquet",
        out_of_fold="results/evaluation/{experiment}/out_of_fold.parquet",
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
        precision=report(
            "results/evaluation/{experiment}/precision.svg",
            caption="../report/precision.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Precision and recall"},
        ),
        losses=report(
            "results/evaluation/{experiment}/losses.svg",
            caption="../report/losses.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Log loss, taken apart"},
        ),
        subgroups=report(
            "results/evaluation/{experiment}/subgroups.svg",
            caption="../report/subgroups.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Groups"},
        ),
        reliability=report(
            "results/evaluation/{experiment}/reliability.svg",
            caption="../report/reliability.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Reliability"},
        ),
        probabilities=report(
            "results/evaluation/{experiment}/probabilities.svg",
            caption="../report/predictions.rst",
            category="Evaluation",
            subcategory="{experiment}",
            labels={"experiment": "{experiment}", "figure": "Probabilities"},
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
        mem_mb=growing(4000),
        runtime=growing(30),
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
            --ledger {input.ledger:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --settings {params.settings:q} \
            --output "$(dirname {output.metrics:q})"
        """


rule compare:
    input:
        metrics=expand(
            "results/evaluation/{experiment}/metrics.json", experiment=MODELS
        ),
        predictions=expand(
            "results/evaluation/{experiment}/predictions.parquet", experiment=MODELS
        ),
        speeds=of_all_models("results/scores/{experiment}/{model}.json"),
    output:
        page=report(
            "results/evaluation/comparison.html",
            caption="../report/comparison.rst",
            category="Experiments",
            labels={"figure": "Compared"},
        ),
        details="results/evaluation/comparison.json",
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("evaluation", "frames", "kaggle"),
        code=source_digest("evaluation.compare"),
    shell:
        r"""
        python -m unmask compare \
            --log {log:q} \
            --metrics {input.metrics:q} \
            --predictions {input.predictions:q} \
            --costs {input.speeds:q} \
            --settings {params.settings:q} \
            --table {output.table:q} \
            --details {output.details:q} \
            --figure {output.figure:q} \
            --page {output.page:q}
        """
