"""Exploration: the data in figures, pages and tables, before any model is trained.

The target `explore` makes all of it, together with the audits of the split, labels and detectors.

results/explore/*.svg, *.png    figures
results/explore/*.html          pages: metadata, originals and fakes, augmentations
results/explore/*.csv           the same as tables
"""


rule explore_videos:
    input:
        ledger="results/videos.parquet",
    output:
        statuses=figure("results/explore/statuses.svg", "Data", "Statuses"),
        labels=figure("results/explore/labels.svg", "Data", "Labels"),
        containers=figure("results/explore/containers.svg", "Data", "Container metadata"),
        shown=figure("results/explore/shown.svg", "Data", "How pictures are shown"),
        families=figure("results/explore/families.svg", "Data", "Families"),
        metadata=figure("results/explore/metadata.html", "Data", "Metadata, tables"),
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
    resources:
        **growing(mem_mb=2000, runtime=20),
    params:
        code=source_digest("explore.videos"),
    shell:
        "python -m unmask explore.videos:explore_videos --log {log:q} --ledger {input.ledger:q} "
        "--output results/explore"


rule explore_faces:
    input:
        **FACES,
        ledger="results/videos.parquet",
    output:
        faces=figure("results/explore/faces.png", "Data", "Faces"),
        statistics=figure("results/explore/face_statistics.svg", "Data", "Faces, statistics"),
        landmarks=figure("results/explore/landmarks.png", "Data", "Landmarks"),
        odd=figure("results/explore/odd_cases.png", "Data", "Odd cases"),
        faces_table="results/explore/faces.csv",
        statistics_table="results/explore/face_statistics.csv",
        odd_table="results/explore/odd_cases.csv",
    log:
        "logs/explore_faces.log",
    benchmark:
        "benchmarks/explore_faces.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=20),
        **lists("indices"),
    params:
        code=source_digest("explore.faces"),
    shell:
        "python -m unmask explore.faces:explore_faces --log {log:q} --ledger {input.ledger:q} "
        "--shards results/faces --indices {resources.indices} --output results/explore"


AUGMENTATION = settings("training.augment", "training.blending", "training.image_size")


rule explore_augmentations:
    input:
        **FACES,
        ledger="results/videos.parquet",
    output:
        augmentations=figure("results/explore/augmentations.html", "Training", "Augmentations"),
    log:
        "logs/explore_augmentations.log",
    benchmark:
        "benchmarks/explore_augmentations.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=20),
        **lists("indices"),
    params:
        settings=AUGMENTATION,
        code=source_digest("explore.augmentations", AUGMENTATION),
    shell:
        "python -m unmask explore.augmentations:explore_augmentations --log {log:q} --ledger {input.ledger:q} "
        "--shards results/faces --indices {resources.indices} --settings {params.settings:q} "
        "--output {output.augmentations:q}"


rule explore_pairs:
    input:
        ledger="results/videos.parquet",
        parts=made(PARTS_TO_SHOW),
    output:
        pairs=figure("results/explore/pairs.html", "Data", "Originals and fakes"),
    log:
        "logs/explore_pairs.log",
    benchmark:
        "benchmarks/explore_pairs.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=20),
        parts=places(PARTS_TO_SHOW),
    params:
        settings=settings("limits"),
        code=source_digest("explore.pairs"),
    shell:
        "python -m unmask explore.pairs:explore_pairs --log {log:q} --ledger {input.ledger:q} "
        "--parts {input.parts:q} {resources.parts} --settings {params.settings:q} --output {output:q}"


rule explore_costs:
    input:
        # All of it, so that its costs are counted.
        rules.explore_videos.output,
        rules.explore_faces.output,
        rules.explore_augmentations.output,
        rules.explore_pairs.output,
        "results/audits/leaks.json",
        "results/audits/shortcuts.svg",
        LABEL_AUDIT,
        DETECTORS,
    output:
        costs=figure("results/explore/costs.svg", "Data", "Time and disk space"),
        times="results/explore/times.csv",
        storage="results/explore/storage.csv",
    log:
        "logs/explore_costs.log",
    benchmark:
        "benchmarks/explore_costs.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=1000, runtime=20),
    params:
        code=source_digest("explore.costs"),
    shell:
        "python -m unmask explore.costs:explore_costs --log {log:q} --results results --benchmarks benchmarks "
        "--output results/explore"


rule explore:
    input:
        CHECKED,
        rules.explore_costs.input,
        rules.explore_costs.output,
