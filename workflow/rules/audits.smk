"""Audits of the data: FAKE faces with a wrong label.

INPUTS
    results/probe/SHARD.parquet, face shards

OUTPUTS
    results/noise/SHARD.parquet    one row per FAKE track: what its original says of it
"""


rule audit_labels:
    input:
        probe="results/probe/{shard}.parquet",
        shard="results/faces/{shard}.tar",
        index="results/faces/{shard}.parquet",
    output:
        "results/noise/{shard}.parquet",
    log:
        "logs/audit_labels/{shard}.log",
    benchmark:
        "benchmarks/audit_labels/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=source_digest("splits.noise"),
    shell:
        r"""
        python -m unmask audit-labels \
            --log {log:q} \
            --probe {input.probe:q} \
            --index {input.index:q} \
            --shards "$(dirname {input.shard:q})" \
            --out {output:q}
        """
