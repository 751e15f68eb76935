"""Kaggle: the upload folder, and the predictions for the test set, made from that folder alone.

results/kaggle/BUNDLE/     weights, calibration and code to predict a test set
results/kaggle/BUNDLE.upload.json    title and owner; the notebook is in BUNDLE
results/submission.csv     filename,label for every row of sample_submission.csv
"""


rule export:
    input:
        **FACES,  # on which the shipped weights must predict the same as the trained ones
        models=of_all_models("results/train/{experiment}/{model}/model.safetensors"),
        runs=of_all_models("results/train/{experiment}/{model}/run.json"),
        calibrations=CALIBRATIONS,
        comparison="results/evaluation/comparison.json",
        # Described by the model card.
        splits="results/splits.parquet",
        videos="results/videos.parquet",  # which the manifest describes
        ledger="results/ledger.json",
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
        **growing(mem_mb=4000, runtime=30),
        **lists("indices"),
    params:
        settings=settings("frames", "limits", "faces", "kaggle", "evaluation.flip"),
        # The bundle contains the code that predicts.
        code=source_digest("kaggle.bundle"),
    shell:
        "python -m unmask kaggle.bundle:export_bundle --log {log:q} --models {input.models:q} --runs {input.runs:q} "
        "--evaluation results/evaluation --comparison {input.comparison:q} --shards results/faces "
        "--indices {resources.indices} --splits {input.splits:q} --videos {input.videos:q} --ledger {input.ledger:q} "
        "--shifts {input.shifts:q} --threads {threads:q} --settings {params.settings:q} "
        "--output {output:q}"


# Adds to the bundle what does not predict, so that a new title is no reason to predict again.
rule upload_files:
    input:
        BUNDLE,
    output:
        UPLOAD,
    log:
        "logs/upload_files.log",
    benchmark:
        "benchmarks/upload_files.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=1000, runtime=10),
    params:
        settings=CONFIG.machine("kaggle"),
        code=source_digest("kaggle.notebook"),
    shell:
        "python -m unmask kaggle.notebook:write_upload_files --log {log:q} --bundle {input:q} "
        "--settings {params.settings:q} --output {output:q}"


rule predict:
    input:
        bundle=BUNDLE,
        test=[ancient(path) for path in TEST if CONFIG.test_root == f"{DEMO}/test"],
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
        **growing(mem_mb=8000, runtime=540),
        gpu=1,
        sample=lambda wildcards: TEST[0],
        videos=lambda wildcards: TEST[1],
    params:
        test=test_videos,
        # A cluster kills a job at its runtime; every video must have a prediction by then.
        minutes=lambda wildcards, resources: 0.95 * resources.runtime,
    shell:
        "python {input.bundle:q}/predict.py --log {log:q} --videos {resources.videos:q} "
        "--sample {resources.sample:q} --threads {threads:q} --deadline {params.minutes:q}m "
        "--out {output:q}"
