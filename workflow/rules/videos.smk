"""Videos: what the containers say, and the ledger of what became of each.

INPUTS
    metadata.json and videos of parts

OUTPUTS
    results/probe/SHARD.parquet   one row per video, ffprobe's values
    results/audio/SHARD.tar       sound tracks, with audio.extract
    results/audio/SHARD.parquet   one row per video, sound or not
    results/videos.parquet        the ledger: one row and one status per video
    results/ledger.json           counts by status
"""


rule probe:
    input:
        metadata=metadata_of,
        # A folder's time changes when videos come or go.
        parts=parts_of_shard,
    output:
        ensure("results/probe/{shard}.parquet", non_empty=True),
    log:
        "logs/probe/{shard}.log",
    benchmark:
        "benchmarks/probe/{shard}.tsv"
    # Before any frames: a part that cannot be used is known early.
    priority: int(not FETCHED)
    conda:
        "../../environment.yml"
    # As a pair: else the single cores that a pair waits for go to further parts, one by one.
    threads: 2
    resources:
        **growing(mem_mb=2500, runtime=60),
    params:
        chunk=chunk_of,
        chunks=CONFIG.shards_per_part,
        settings=settings("limits"),
        code=source_digest("videos.probe"),
    shell:
        r"""
        python -m unmask probe --log {log:q} --parts {input.parts:q} --chunk {params.chunk:q} \
            --chunks {params.chunks:q} --workers {threads} --settings {params.settings:q} \
            --output {output:q}
        """


rule extract_audio:
    input:
        probe="results/probe/{shard}.parquet",
        parts=parts_of_shard,
    output:
        shard="results/audio/{shard}.tar",
        index="results/audio/{shard}.parquet",
    log:
        "logs/extract_audio/{shard}.log",
    benchmark:
        "benchmarks/extract_audio/{shard}.tsv"
    priority: int(FETCHED)
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=1500, runtime=120),
    params:
        settings=settings("audio", "limits"),
        code=source_digest("videos.audio"),
    shell:
        r"""
        python -m unmask extract-audio --log {log:q} --parts {input.parts:q} \
            --probe {input.probe:q} --settings {params.settings:q} --shard {output.shard:q} \
            --index {output.index:q}
        """


rule ledger:
    input:
        probes=expand("results/probe/{shard}.parquet", shard=SHARDS),
        cropped=expand("results/faces/{shard}.videos.parquet", shard=SHARDS),
    output:
        ledger="results/videos.parquet",
        summary="results/ledger.json",
    log:
        "logs/ledger.log",
    benchmark:
        "benchmarks/ledger.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=10),
    params:
        code=source_digest("videos.ledger"),
    shell:
        r"""
        python -m unmask ledger --log {log:q} --probes {input.probes:q} \
            --cropped {input.cropped:q} --output {output.ledger:q} --summary {output.summary:q}
        """
