"""Shifts: the loss of each model on videos made smaller, slower, noisier …

results/shifts/sample.parquet                 the videos that are shifted
results/shifts/faces/SHARD.tar                JPEG crops of all shifts, and of the same videos unchanged
results/shifts/faces/SHARD.parquet            their index: a face index with a column shift
results/shifts/faces/SHARD.videos.parquet     the status of each video under each shift
results/shifts/scores/EXPERIMENT/             a row per face of videos that did not train the model
results/evaluation/EXPERIMENT/shifts.json, .svg
"""


rule sample_shifts:
    input:
        ledger="results/videos.parquet",
        splits="results/splits.parquet",
    output:
        "results/shifts/sample.parquet",
    log:
        "logs/sample_shifts.log",
    benchmark:
        "benchmarks/sample_shifts.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=10),
    params:
        folds=ASKED_FOLDS,
        videos=CONFIG.evaluation.shift_videos,
        code=source_digest("robustness.shifted_clips"),
    shell:
        "python -m unmask robustness.shifted_clips:sample_shifts --log {log:q} --ledger {input.ledger:q} "
        "--splits {input.splits:q} --folds {params.folds:q} --count {params.videos} "
        "--output {output:q}"


rule shift_faces:
    input:
        sample="results/shifts/sample.parquet",
        probe="results/probe/{shard}.parquet",
        parts=of_shard(made),
    output:
        shard="results/shifts/faces/{shard}.tar",
        index="results/shifts/faces/{shard}.parquet",
        videos="results/shifts/faces/{shard}.videos.parquet",
    log:
        "logs/shift_faces/{shard}.log",
    benchmark:
        "benchmarks/shift_faces/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 4  # each takes one video at a time
    resources:
        **growing(mem_mb=8000, runtime=240),
        parts=of_shard(places),
    params:
        settings=settings("evaluation.shift_seconds", "frames", "faces", "limits"),
        code=source_digest("robustness.shifted_clips"),
    shell:
        "python -m unmask robustness.shifted_clips:shift_shard --log {log:q} --parts {input.parts:q} {resources.parts} "
        "--probe {input.probe:q} --sample {input.sample:q} --workers {threads:q} "
        "--settings {params.settings:q} --shard {output.shard:q} --index {output.index:q} "
        "--videos {output.videos:q}"


use rule score as score_shifts with:
    input:
        model="results/train/{experiment}/fold{fold}-seed{seed}/model.safetensors",
        run="results/train/{experiment}/fold{fold}-seed{seed}/run.json",
        splits="results/splits.parquet",
        shards=expand("results/shifts/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/shifts/faces/{shard}.parquet", shard=SHARDS),
    output:
        scores="results/shifts/scores/{experiment}/fold{fold}-seed{seed}.parquet",
        speed="results/shifts/scores/{experiment}/fold{fold}-seed{seed}.json",
    log:
        "logs/score_shifts/{experiment}/fold{fold}-seed{seed}.log",
    benchmark:
        "benchmarks/score_shifts/{experiment}/fold{fold}-seed{seed}.tsv"
    params:
        videos="--shards results/shifts/faces --splits results/splits.parquet --shifted",
        settings=settings("evaluation.flip"),
        code=source_digest("inference.score"),


rule evaluate_shifts:
    input:
        scores=models_of("results/shifts/scores/{experiment}/{model}.parquet"),
        runs=models_of("results/train/{experiment}/{model}/run.json"),
        videos=expand("results/shifts/faces/{shard}.videos.parquet", shard=SHARDS),
        splits="results/splits.parquet",
        calibration="results/evaluation/{experiment}/calibration.json",
    output:
        summary=figure(
            "results/evaluation/{experiment}/shifts.json", "Evaluation", "Shifts, figures"
        ),
        figure=figure("results/evaluation/{experiment}/shifts.svg", "Evaluation", "Shifts"),
    log:
        "logs/evaluate_shifts/{experiment}.log",
    benchmark:
        "benchmarks/evaluate_shifts/{experiment}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=30),
        **lists("videos"),
    params:
        code=source_digest("robustness.evaluate"),
    shell:
        "python -m unmask robustness.evaluate:evaluate_shifts --log {log:q} --scores {input.scores:q} "
        "--runs {input.runs:q} --videos {resources.videos} --splits {input.splits:q} "
        "--calibration {input.calibration:q} --summary {output.summary:q} "
        "--figure {output.figure:q}"
