"""Splits: folds in which an original and all its fakes stay together.

INPUTS
    results/videos.parquet

OUTPUTS
    results/splits.parquet       the fold of every video that has a file
    results/audits/split.json    counts per fold, straddling families (none), absent originals
"""


rule split:
    input:
        ledger="results/videos.parquet",
        identities=SPLIT_BY,
    output:
        splits="results/splits.parquet",
        audit=report(
            "results/audits/split.json",
            caption="../report/split.rst",
            category="Data",
            labels={"figure": "Split audit"},
        ),
    log:
        "logs/split.log",
    benchmark:
        "benchmarks/split.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        settings=settings("split"),
        code=source_digest("splits.folds"),
    shell:
        r"""
        python -m unmask split \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --identities {input.identities:q} \
            --settings {params.settings:q} \
            --out {output.splits:q} \
            --audit {output.audit:q}
        """
