"""Tracking: MLflow's server or database, brought up to date with all results.

INPUTS
    results/train/, results/evaluation/, results/kaggle/BUNDLE/

OUTPUTS
    results/mlflow.json          where the runs are, and the MLflow run of every model
"""


# Trainings log live where the server can be reached. What it missed, and what was computed since, is
# added here, after everything else: a server that is away fails this rule alone.
rule track:
    input:
        runs=of_all_models("results/train/{experiment}/{model}/run.json"),
        metrics=expand("results/evaluation/{experiment}/metrics.json", experiment=MODELS),
        shifts=SHIFTED,
        sets=["results/evaluation/sets.json"] if SETS else [],
        bundle=BUNDLE,
        submission=SUBMISSION,  # takes longest, and should not wait because of a server
    output:
        "results/mlflow.json",
    log:
        "logs/track.log",
    benchmark:
        "benchmarks/track.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=60),
    params:
        uri=CONFIG.tracking.address,
        experiment=CONFIG.tracking.experiment,
        model=CONFIG.tracking.model,
    shell:
        r"""
        python -m unmask track --log {log:q} --runs {input.runs:q} --metrics {input.metrics:q} \
            --shifts {input.shifts:q} --sets {input.sets:q} --bundle {input.bundle:q} \
            --uri {params.uri:q} --experiment {params.experiment:q} --model {params.model:q} \
            --output {output:q}
        """
