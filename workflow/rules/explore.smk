"""Exploration: the data in figures, pages and tables, before any model is trained.

The target `explore` makes all of it, together with the audits of the split, labels and detectors.

INPUTS
    results/videos.parquet, face shards, results/audits/, benchmarks/

OUTPUTS
    results/explore/*.svg, *.png    figures
    results/explore/*.html          pages: metadata, originals and fakes, augmentations
    results/explore/*.csv           the same as tables
"""

EXPLORED = [
    f"results/explore/{name}"
    for name in (
        "statuses.svg",
        "labels.svg",
        "containers.svg",
        "families.svg",
        "metadata.html",
        "pairs.html",
        "faces.png",
        "face_statistics.svg",
        "landmarks.png",
        "odd_cases.png",
        "augmentations.html",
    )
]
EXPLORED += [
    "results/audits/leaks.json",
    "results/audits/shortcuts.svg",
    *LABEL_AUDIT,
    *DETECTORS,
]


rule explore:
    input:
        EXPLORED,
        "results/explore/costs.svg",


rule explore_videos:
    input:
        ledger="results/videos.parquet",
    output:
        statuses=report(
            "results/explore/statuses.svg",
            caption="../report/statuses.rst",
            category="Data",
            labels={"figure": "Statuses"},
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
            labels={"figure": "Container metadata"},
        ),
        families=report(
            "results/explore/families.svg",
            caption="../report/families.rst",
            category="Data",
            labels={"figure": "Families"},
        ),
        metadata=report(
            "results/explore/metadata.html",
            caption="../report/metadata.rst",
            category="Data",
            labels={"figure": "Metadata, tables"},
        ),
        videos_table="results/explore/videos.csv",
        families_table="results/explore/families.csv",
        containers_table="results/explore/containers.csv",
        not_ok="results/explore/not_ok.csv",
    log:
        "logs/explore_videos.log",
    benchmark:
        "benchmarks/explore_videos.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=source_digest("explore.videos"),
    shell:
        r"""
        python -m unmask explore-videos \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --output results/explore
        """


rule explore_faces:
    input:
        ledger="results/videos.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        faces=report(
            "results/explore/faces.png",
            caption="../report/faces.rst",
            category="Data",
            labels={"figure": "Faces"},
        ),
        statistics=report(
            "results/explore/face_statistics.svg",
            caption="../report/face_statistics.rst",
            category="Data",
            labels={"figure": "Faces, statistics"},
        ),
        landmarks=report(
            "results/explore/landmarks.png",
            caption="../report/landmarks.rst",
            category="Data",
            labels={"figure": "Landmarks"},
        ),
        odd=report(
            "results/explore/odd_cases.png",
            caption="../report/odd_cases.rst",
            category="Data",
            labels={"figure": "Odd cases"},
        ),
        faces_table="results/explore/faces.csv",
        statistics_table="results/explore/face_statistics.csv",
        odd_table="results/explore/odd_cases.csv",
    log:
        "logs/explore_faces.log",
    benchmark:
        "benchmarks/explore_faces.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        code=source_digest("explore.faces"),
    shell:
        r"""
        python -m unmask explore-faces \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --output results/explore
        """


rule explore_augmentations:
    input:
        ledger="results/videos.parquet",
        shards=expand("results/faces/{shard}.tar", shard=SHARDS),
        indices=expand("results/faces/{shard}.parquet", shard=SHARDS),
    output:
        augmentations=report(
            "results/explore/augmentations.html",
            caption="../report/augmentations.rst",
            category="Training",
            labels={"figure": "Augmentations"},
        ),
    log:
        "logs/explore_augmentations.log",
    benchmark:
        "benchmarks/explore_augmentations.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        settings=augmentation_settings(),
        code=source_digest("explore.augmentations"),
    shell:
        r"""
        python -m unmask explore-augmentations \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --shards results/faces \
            --indices {input.indices:q} \
            --settings {params.settings:q} \
            --output {output.augmentations:q}
        """


rule explore_pairs:
    input:
        ledger="results/videos.parquet",
        parts=PARTS_TO_SHOW,
    output:
        pairs=report(
            "results/explore/pairs.html",
            caption="../report/pairs.rst",
            category="Data",
            labels={"figure": "Originals and fakes"},
        ),
    log:
        "logs/explore_pairs.log",
    benchmark:
        "benchmarks/explore_pairs.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        settings=settings("limits"),
        code=source_digest("explore.pairs"),
    shell:
        r"""
        python -m unmask explore-pairs \
            --log {log:q} \
            --ledger {input.ledger:q} \
            --parts {input.parts:q} \
            --settings {params.settings:q} \
            --output {output:q}
        """


rule explore_costs:
    input:
        EXPLORED,  # so that their costs are counted
    output:
        costs=report(
            "results/explore/costs.svg",
            caption="../report/costs.rst",
            category="Data",
            labels={"figure": "Time and disk space"},
        ),
        times="results/explore/times.csv",
        storage="results/explore/storage.csv",
    log:
        "logs/explore_costs.log",
    benchmark:
        "benchmarks/explore_costs.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        code=source_digest("explore.costs"),
    shell:
        r"""
        python -m unmask explore-costs \
            --log {log:q} \
            --results results \
            --benchmarks benchmarks \
            --output results/explore
        """
