"""Evaluation: logits of faces, then calibrated probabilities and metrics of videos.

results/scores/EXPERIMENT/foldFOLD-seedSEED.parquet   a row per face of videos that did not train the model
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
        **FACES,
        model="results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
        splits="results/splits.parquet",
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
        **growing(mem_mb=8000, runtime=240),
        **lists("indices"),
        gpu=1,
        batch_size=training("batch_size"),
    params:
        videos="--shards results/faces --splits results/splits.parquet",
        settings=settings("evaluation.flip"),
        code=source_digest("inference.score"),
    shell:
        "python -m unmask inference.score:score_model --log {log:q} --model {input.model:q} "
        "--run {input.run:q} {params.videos} --indices {resources.indices} --threads {threads:q} "
        "--batch-size {resources.batch_size} --settings {params.settings:q} "
        "--output {output.scores:q} --speed {output.speed:q}"


rule evaluate:
    input:
        **FACES,
        scores=models_of("results/scores/{experiment}/{model}.parquet"),
        runs=models_of("results/train/{experiment}/{model}/run.json"),
        splits="results/splits.parquet",
        ledger="results/videos.parquet",
    output:
        experiment=figure(
            "results/evaluation/{experiment}/page.html", "Evaluation", "Page", caption="experiment"
        ),
        metrics=figure("results/evaluation/{experiment}/metrics.json", "Evaluation", "Metrics"),
        calibration="results/evaluation/{experiment}/calibration.json",
        predictions="results/evaluation/{experiment}/predictions.parquet",
        out_of_fold="results/evaluation/{experiment}/out_of_fold.parquet",
        curves=figure("results/evaluation/{experiment}/curves.svg", "Training", "Curves"),
        roc=figure("results/evaluation/{experiment}/roc.svg", "Evaluation", "ROC"),
        precision=figure(
            "results/evaluation/{experiment}/precision.svg", "Evaluation", "Precision and recall"
        ),
        losses=figure("results/evaluation/{experiment}/losses.svg", "Evaluation", "Log loss"),
        subgroups=figure("results/evaluation/{experiment}/subgroups.svg", "Evaluation", "Subgroups"),
        reliability=figure(
            "results/evaluation/{experiment}/reliability.svg", "Evaluation", "Reliability"
        ),
        probabilities=figure(
            "results/evaluation/{experiment}/probabilities.svg", "Evaluation", "Probabilities"
        ),
        confusion=figure("results/evaluation/{experiment}/confusion.svg", "Evaluation", "Confusion"),
        mistakes=figure("results/evaluation/{experiment}/mistakes.png", "Evaluation", "Mistakes"),
    log:
        "logs/evaluate/{experiment}.log",
    benchmark:
        "benchmarks/evaluate/{experiment}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=30),
        **lists("indices"),
    params:
        settings=settings(
            "evaluation.aggregate",
            "evaluation.calibrate",
            "evaluation.clip",
            "evaluation.resamples",
        ),
        code=source_digest("evaluation.evaluate"),
    shell:
        "python -m unmask evaluation.evaluate:evaluate --log {log:q} --scores {input.scores:q} --runs {input.runs:q} "
        "--splits {input.splits:q} --ledger {input.ledger:q} --shards results/faces "
        "--indices {resources.indices} --settings {params.settings:q} "
        '--output "$(dirname {output.metrics:q})"'


rule compare:
    input:
        metrics=expand("results/evaluation/{experiment}/metrics.json", experiment=MODELS),
        predictions=expand("results/evaluation/{experiment}/predictions.parquet", experiment=MODELS),
        speeds=of_all_models("results/scores/{experiment}/{model}.json"),
    output:
        page=figure("results/evaluation/comparison.html", "Experiments", "Compared"),
        details="results/evaluation/comparison.json",
        table=figure("results/evaluation/comparison.csv", "Experiments", "Table"),
        figure=figure("results/evaluation/comparison.svg", "Experiments", "Log loss"),
    log:
        "logs/compare.log",
    benchmark:
        "benchmarks/compare.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=10),
    params:
        settings=settings(
            "evaluation.resamples", "frames", "kaggle.max_bytes", "kaggle.seconds_per_video"
        ),
        code=source_digest("evaluation.compare"),
    shell:
        "python -m unmask evaluation.compare:compare --log {log:q} --metrics {input.metrics:q} "
        "--predictions {input.predictions:q} --costs {input.speeds:q} "
        "--settings {params.settings:q} --table {output.table:q} --details {output.details:q} "
        "--figure {output.figure:q} --page {output.page:q}"
