"""Videos: their metadata, their audio tracks, and the ledger with the status of each.

results/probe/SHARD.parquet   a row per video: the values of ffprobe
results/inventory/SHARD.json  the videos that it was probed with: names, sizes, times
results/audio/SHARD.tar       audio tracks, with audio.extract
results/audio/SHARD.parquet   a row per video, with or without audio
results/videos.parquet        the ledger: a row and a status per video
results/ledger.json           counts by status
"""


rule probe:
    input:
        parts=of_shard(made),
    output:
        table=ensure("results/probe/{shard}.parquet", non_empty=True),
        inventory="results/inventory/{shard}.json",
    log:
        "logs/probe/{shard}.log",
    benchmark:
        "benchmarks/probe/{shard}.tsv"
    # Before frames are extracted, so that an unusable part is reported early.
    priority: int(not FETCHED)
    conda:
        "../../environment.yml"
    # As many as extract_frames and crop_faces together. A probe of one core would always take the
    # first core that is free, and never leave them two.
    threads: 2
    resources:
        **growing(mem_mb=2500, runtime=60),
        parts=of_shard(places),
    params:
        videos=videos,
        chunk=lambda wildcards: wildcards.shard.rpartition("-")[2],
        chunks=CONFIG.shards_per_part,
        settings=settings("limits"),
        code=source_digest("videos.probe"),
    shell:
        "python -m unmask videos.probe:probe_shard --log {log:q} --parts {input.parts:q} {resources.parts} "
        "--chunk {params.chunk:q} --chunks {params.chunks:q} --workers {threads} "
        "--settings {params.settings:q} --output {output.table:q} --token {params.videos:q} "
        "--inventory {output.inventory:q}"


rule extract_audio:
    input:
        probe="results/probe/{shard}.parquet",
        parts=of_shard(made),
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
        parts=of_shard(places),
    params:
        settings=settings("audio", "limits"),
        code=source_digest("videos.audio"),
    shell:
        "python -m unmask videos.audio:extract_audio --log {log:q} --parts {input.parts:q} {resources.parts} "
        "--probe {input.probe:q} --settings {params.settings:q} --shard {output.shard:q} "
        "--index {output.index:q}"


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
        **lists("probes", "cropped"),
        parts=lambda wildcards: list_file(local(PARTS.values())),
    params:
        labels=lambda wildcards: labels(SHARDS),
        code=source_digest("videos.ledger"),
    shell:
        "python -m unmask videos.ledger:write_ledger --log {log:q} --probes {resources.probes} "
        "--cropped {resources.cropped} --output {output.ledger:q} --summary {output.summary:q} "
        "--parts {resources.parts}"
