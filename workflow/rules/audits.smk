"""Audits of the data: FAKE faces with a wrong label, and what face detectors find.

INPUTS
    results/probe/SHARD.parquet, face shards, results/splits.parquet
    the videos of all parts, results/videos.parquet

OUTPUTS
    results/noise/SHARD.parquet              one row per FAKE track: what its original says of it
    results/audits/label_noise.json, .svg    counts by verdict, and what training leaves out
    results/audits/pairs.png                 originals, fakes and their differences
    results/detectors/                       comparison.csv, .svg and boxes.png, on request
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
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=source_digest("audits.label_noise"),
    shell:
        r"""
        python -m unmask audit-labels \
            --log {log:q} \
            --probe {input.probe:q} \
            --index {input.index:q} \
            --shards "$(dirname {input.shard:q})" \
            --output {output:q}
        """


rule report_labels:
    input:
        noise=expand("results/noise/{shard}.parquet", shard=SHARDS),
        splits="results/splits.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        counts=report(
            "results/audits/label_noise.json",
            caption="../report/label_noise.rst",
            category="Data",
            labels={"figure": "Label noise, counts"},
        ),
        changes=report(
            "results/audits/label_noise.svg",
            caption="../report/label_noise.rst",
            category="Data",
            labels={"figure": "Label noise"},
        ),
        pairs=report(
            "results/audits/pairs.png",
            caption="../report/label_pairs.rst",
            category="Data",
            labels={"figure": "Differences from originals"},
        ),
    log:
        "logs/report_labels.log",
    benchmark:
        "benchmarks/report_labels.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(20),
    params:
        settings=noise_settings(),
        code=source_digest("audits.label_noise_report"),
    shell:
        r"""
        python -m unmask report-labels \
            --log {log:q} \
            --noise {input.noise:q} \
            --indices {input.indices:q} \
            --shards results/faces \
            --splits {input.splits:q} \
            --settings {params.settings:q} \
            --output "$(dirname {output.counts:q})"
        """


rule compare_detectors:
    input:
        ledger="results/videos.parquet",
        parts=PARTS_TO_SHOW,
    output:
        table=report(
            "results/detectors/comparison.csv",
            caption="../report/detectors.rst",
            category="Detectors",
            labels={"figure": "Table"},
        ),
        figure=report(
            "results/detectors/comparison.svg",
            caption="../report/detectors.rst",
            category="Detectors",
            labels={"figure": "Comparison"},
        ),
        boxes=report(
            "results/detectors/boxes.png",
            caption="../report/boxes.rst",
            category="Detectors",
            labels={"figure": "Boxes"},
        ),
    log:
        "logs/compare_detectors.log",
    benchmark:
        "benchmarks/compare_detectors.tsv"
    conda:
        "../../environment.yml"
    threads: 1  # times are those of one thread
    resources:
        mem_mb=growing(6000),
        runtime=growing(120),
    params:
        settings=detector_settings(),
        code=source_digest("audits.detectors"),
    shell:
        r"""
        python -m unmask compare-detectors \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --parts {input.parts:q} \
            --settings {params.settings:q} \
            --output "$(dirname {output.table:q})"
        """
