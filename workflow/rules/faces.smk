"""Faces: frames are passed to the cropper through a pipe, and only crops are written to disk.

results/frames/SHARD.tar              the frame stream: a pipe, or a file with frames.keep
results/faces/SHARD.tar               JPEG crops, WebDataset names
results/faces/SHARD.parquet           the face index: one row per crop, with its byte offset
results/faces/SHARD.videos.parquet    the status of each video
results/identities/SHARD.parquet      SFace embeddings of each track, to recognise people
"""

FRAMES = "results/frames/{shard}.tar"


rule extract_frames:
    input:
        probe="results/probe/{shard}.parquet",
        parts=of_shard(made),
    output:
        pipe(FRAMES) if PIPED else FRAMES if CONFIG.frames.keep else temp(FRAMES),
    log:
        "logs/extract_frames/{shard}.log",
    benchmark:
        "benchmarks/extract_frames/{shard}.tsv"
    priority: int(FETCHED)
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=FRAMES_MB, runtime=240),
        # The cores of both ends of the pipe, because its reader needs a tenth of one.
        decoders=2 if PIPED else 1,
        parts=of_shard(places),
    params:
        settings=settings("frames", "limits"),
        code=source_digest("videos.extraction"),
    shell:
        "exec python -m unmask videos.extraction:write_stream --log {log:q} --parts {input.parts:q} {resources.parts} "
        "--probe {input.probe:q} --settings {params.settings:q} --workers {resources.decoders} "
        "--output {output:q}"


rule crop_faces:
    input:
        stream=FRAMES,
        probe="results/probe/{shard}.parquet",
    output:
        shard=ensure("results/faces/{shard}.tar", non_empty=True),
        index="results/faces/{shard}.parquet",
        videos="results/faces/{shard}.videos.parquet",
    log:
        "logs/crop_faces/{shard}.log",
    benchmark:
        "benchmarks/crop_faces/{shard}.tsv"
    priority: int(FETCHED)
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=FRAMES_MB, runtime=240),
    params:
        settings=settings("faces"),
        # A pipe leaves no file with a modification time.
        frames=settings("frames"),
        extraction=source_digest("videos.extraction"),
        code=source_digest("faces.cropping"),
    shell:
        "exec python -m unmask faces.cropping:crop_shard --log {log:q} --stream {input.stream:q} "
        "--probe {input.probe:q} --settings {params.settings:q} --shard {output.shard:q} "
        "--index {output.index:q} --videos {output.videos:q}"


rule embed_faces:
    input:
        shard="results/faces/{shard}.tar",
        index="results/faces/{shard}.parquet",
    output:
        "results/identities/{shard}.parquet",
    log:
        "logs/embed_faces/{shard}.log",
    benchmark:
        "benchmarks/embed_faces/{shard}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=1500, runtime=60),
    params:
        code=source_digest("faces.identity"),
    shell:
        "python -m unmask faces.identity:embed_shard --log {log:q} --shard {input.shard:q} "
        "--index {input.index:q} --output {output:q}"
