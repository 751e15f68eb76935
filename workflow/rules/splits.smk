"""Splits: folds in which an original and all its fakes stay together; what their containers tell.

INPUTS
    results/videos.parquet

OUTPUTS
    results/splits.parquet       the fold of every video that has a file
    results/audits/split.json    counts per fold, straddling families (none), absent originals
    results/audits/shortcuts.json   AUC of container metadata alone, and of each column
"""


rule split:
    input:
        "results/videos.parquet",
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
        mem_mb=2000,
        runtime=10,
    params:
        settings=settings("seed", "split"),
        code=source_digest("splits.folds"),
    shell:
        r"""
        python -m unmask split \
            --log {log:q} \
            --ledger {input:q} \
            --settings {params.settings:q} \
            --out {output.splits:q} \
            --audit {output.audit:q}
        """


rule audit_shortcuts:
    input:
        ledger="results/videos.parquet",
        splits="results/splits.parquet",
    output:
        "results/audits/shortcuts.json",
    log:
        "logs/audit_shortcuts.log",
    benchmark:
        "benchmarks/audit_shortcuts.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=settings("seed", "audits"),
        code=source_digest("splits.shortcuts"),
    shell:
        r"""
        python -m unmask audit-shortcuts \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --splits {input.splits:q} \
            --settings {params.settings:q} \
            --out {output:q}
        """
