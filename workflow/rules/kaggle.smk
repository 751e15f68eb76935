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
    output:
        directory(BUNDLE),
    log:
        "logs/export.log",
    benchmark:
        "benchmarks/export.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=settings(
            "frames", "limits", "faces", "evaluation", "kaggle", "tracking"
        ),
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
            --settings {params.settings:q} \
            --out {output:q}
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
        mem_mb=8000,
        gpu=1,
        runtime=540,
    shell:
        r"""
        python {input.bundle:q}/predict.py \
            --log {log:q} \
            --videos {input.test[1]:q} \
            --sample {input.test[0]:q} \
            --threads {threads:q} \
            --out {output:q}
        """
