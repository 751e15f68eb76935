"""Tracking: brings MLflow's server or database up to date with all results.

results/mlflow.json          where the runs are, and the MLflow run of every model
"""


# Training logs live if the server can be reached. This rule adds what is missing, after everything
# else, so that only this rule fails without a server.
rule track:
    input:
        runs=of_all_models("results/train/{experiment}/{model}/run.json"),
        results=[
            *expand("results/evaluation/{experiment}/metrics.json", experiment=MODELS),
            *SHIFTED,
            *(["results/evaluation/sets.json"] if SETS else []),
        ],
        bundle=BUNDLE,
        upload=ancient(UPLOAD),  # adds files to the bundle
        submission=SUBMISSION,  # so that it does not wait for a server
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
        "python -m unmask tracking:track_runs --log {log:q} --runs {input.runs:q} --results {input.results:q} "
        "--bundle {input.bundle:q} --uri {params.uri:q} --experiment {params.experiment:q} "
        "--model {params.model:q} --output {output:q}"
