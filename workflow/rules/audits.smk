"""Audits of the data: its metadata, FAKE faces with a wrong label, and face detectors compared.

results/metadata.json                    counts of videos, families and originals, before any is opened
results/noise/SHARD.parquet              a row per FAKE track: its difference from the original
results/audits/label_noise.json, .svg    counts by verdict, and of faces left out of training
results/audits/pairs.png                 originals, fakes and their differences
results/detectors/                       comparison.csv, .svg and boxes.png, on request
"""


rule check_metadata:
    input:
        made(PARTS.values()),
    output:
        "results/metadata.json",
    log:
        "logs/check_metadata.log",
    benchmark:
        "benchmarks/check_metadata.tsv"
    # Before the first video is opened, see OR_END_THE_RUN.
    priority: 200
    localrule: True
    conda:
        "../../environment.yml"
    threads: ALL_CORES
    resources:
        **growing(mem_mb=2000, runtime=10),
        parts=lambda wildcards: list_file(local(PARTS.values())),
    params:
        labels=lambda wildcards: labels(SHARDS),
        settings=settings("split.folds", "split.group_by", "split.file"),
        code=source_digest("audits.metadata"),
        or_else=OR_END_THE_RUN,
    shell:
        "python -m unmask audits.metadata:check_metadata --log {log:q} --parts {resources.parts} "
        "--settings {params.settings:q} --output {output:q} {params.or_else}"


rule audit_labels:
    input:
        # An original may be in any part.
        **FACES,
        ledger="results/videos.parquet",
        index="results/faces/{shard}.parquet",
    output:
        "results/noise/{shard}.parquet",
    log:
        "logs/audit_labels/{shard}.log",
    benchmark:
        "benchmarks/audit_labels/{shard}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=60),
        **lists("indices"),
    params:
        code=source_digest("audits.label_noise"),
    shell:
        "python -m unmask audits.label_noise:audit_shard --log {log:q} --ledger {input.ledger:q} "
        "--index {input.index:q} --indices {resources.indices} --shards results/faces --output {output:q}"


rule report_labels:
    input:
        **FACES,
        noise=expand("results/noise/{shard}.parquet", shard=SHARDS),
        splits="results/splits.parquet",
    output:
        counts=figure("results/audits/label_noise.json", "Data", "Label noise, counts"),
        changes=figure("results/audits/label_noise.svg", "Data", "Label noise"),
        pairs=figure(
            "results/audits/pairs.png", "Data", "Differences from originals", caption="label_pairs"
        ),
    log:
        "logs/report_labels.log",
    benchmark:
        "benchmarks/report_labels.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=8000, runtime=20),
        **lists("noise", "indices"),
    params:
        settings=settings("audits.label_noise", "audits.soft_target", "split.folds"),
        code=source_digest("audits.label_noise_report"),
    shell:
        "python -m unmask audits.label_noise_report:report_labels --log {log:q} --noise {resources.noise} "
        "--indices {resources.indices} --shards results/faces --splits {input.splits:q} "
        '--settings {params.settings:q} --output "$(dirname {output.counts:q})"'


rule compare_detectors:
    input:
        ledger="results/videos.parquet",
        parts=made(PARTS_TO_SHOW),
    output:
        table=figure("results/detectors/comparison.csv", "Detectors", "Table", caption="detectors"),
        figure=figure(
            "results/detectors/comparison.svg", "Detectors", "Comparison", caption="detectors"
        ),
        boxes=figure("results/detectors/boxes.png", "Detectors", "Boxes"),
    log:
        "logs/compare_detectors.log",
    benchmark:
        "benchmarks/compare_detectors.tsv"
    conda:
        "../../environment.yml"
    threads: 1  # the table has times of one thread
    resources:
        **growing(mem_mb=6000, runtime=120),
        parts=places(PARTS_TO_SHOW),
    params:
        settings=settings("audits.detectors", "audits.detector_frames", "faces"),
        code=source_digest("audits.detectors"),
    shell:
        "python -m unmask audits.detectors:compare_detectors --log {log:q} --ledger {input.ledger:q} "
        "--parts {input.parts:q} {resources.parts} --settings {params.settings:q} "
        '--output "$(dirname {output.table:q})"'
