"""Kaggle: the upload folder, and the predictions for the test set, made from that folder alone.

INPUTS
    results/train/, results/evaluation/, the test set

OUTPUTS
    results/kaggle/BUNDLE/     weights, calibration and code to predict a test set
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
    params:
        settings=settings("frames", "limits", "faces", "kaggle"),
        upload=CONFIG.machine("kaggle"),
        # The bundle contains the code that predicts.
        code=source_digest("kaggle.bundle"),
    shell:
        r"""
        python -m unmask export --log {log:q} --models {input.models:q} --runs {input.runs:q} \
            --evaluation results/evaluation --comparison {input.comparison:q} \
            --shards results/faces --indices {input.indices:q} --splits {input.splits:q} \
            --ledger {input.ledger:q} --shifts {input.shifts:q} --threads {threads:q} \
            --settings {params.settings:q} {params.upload:q} --output {output:q}
        """


rule predict:
    input:
        # What predictions depend on. The bundle is also written for a new title or owner, which is
        # no reason to predict a test set for hours.
        models=rules.export.input.models,
        calibrations=rules.export.input.calibrations,
        comparison=rules.export.input.comparison,
        bundle=ancient(BUNDLE),
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
        **growing(mem_mb=8000, runtime=540),
        gpu=1,
    params:
        settings=rules.export.params.settings,
        code=rules.export.params.code,
        # A cluster kills a job at its runtime; every video must have a prediction by then.
        minutes=lambda wildcards, resources: 0.95 * resources.runtime,
    shell:
        r"""
        python {input.bundle:q}/predict.py --log {log:q} --videos {input.test[1]:q} \
            --sample {input.test[0]:q} --threads {threads:q} --deadline {params.minutes:q}m \
            --out {output:q}
        """
