"""Exploration: what the data is like, before any model. Target of `snakemake explore`.

INPUTS
    results/videos.parquet, face shards

OUTPUTS
    results/explore/*.svg, faces.png
"""


rule explore:
    input:
        ledger="results/videos.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        statuses=report(
            "results/explore/statuses.svg",
            caption="../report/statuses.rst",
            category="Data",
            labels={"figure": "Ledger"},
        ),
        labels=report(
            "results/explore/labels.svg",
            caption="../report/labels.rst",
            category="Data",
            labels={"figure": "Labels"},
        ),
        containers=report(
            "results/explore/containers.svg",
            caption="../report/containers.rst",
            category="Data",
            labels={"figure": "Containers"},
        ),
        faces=report(
            "results/explore/faces.png",
            caption="../report/faces.rst",
            category="Data",
            labels={"figure": "Faces"},
        ),
    log:
        "logs/explore.log",
    benchmark:
        "benchmarks/explore.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        code=source_digest("evaluation.explore"),
    shell:
        r"""
        python -m unmask explore \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --out results/explore
        """
