"""Splits: folds that keep an original and its fakes together, and audits of leaks between them.

results/splits.parquet          the fold of every video that has a file
results/audits/split.json       seed, counts per fold, straddling families (none), warnings
results/audits/leaks.json       counts of families, files, pictures and faces in two folds
results/audits/leaks.parquet    the pairs
results/audits/leak_pairs.png   the most similar faces in two folds, side by side
results/audits/shortcuts.json   AUC of metadata alone, and of each column
results/audits/shortcuts.svg    the same as a figure
"""


rule split:
    input:
        ledger="results/videos.parquet",
        identities=IDENTITIES if CONFIG.split.group_by == "identity" else [],
        given=GIVEN_SPLIT,
    output:
        splits="results/splits.parquet",
        audit=figure("results/audits/split.json", "Data", "Split audit"),
    log:
        "logs/split.log",
    benchmark:
        "benchmarks/split.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=4000, runtime=10),
        **lists("identities"),
    params:
        settings=settings("split"),
        code=source_digest("splits.folds"),
    shell:
        "python -m unmask splits.folds:write_splits --log {log:q} --ledger {input.ledger:q} "
        "--identities {resources.identities} --given {input.given:q} "
        "--settings {params.settings:q} --output {output.splits:q} --audit {output.audit:q}"


rule audit_leaks:
    input:
        **FACES,
        splits="results/splits.parquet",
        ledger="results/videos.parquet",
        identities=IDENTITIES,
    output:
        summary=figure("results/audits/leaks.json", "Data", "Leak audit"),
        pairs="results/audits/leaks.parquet",
        sheet=figure("results/audits/leak_pairs.png", "Data", "Closest faces in two folds"),
    log:
        "logs/audit_leaks.log",
    benchmark:
        "benchmarks/audit_leaks.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=6000, runtime=60),
        **lists("identities", "indices"),
    params:
        settings=settings("split.identity_threshold"),
        code=source_digest("audits.leaks"),
    shell:
        "python -m unmask audits.leaks:audit_leaks --log {log:q} --splits {input.splits:q} "
        "--ledger {input.ledger:q} --identities {resources.identities} --shards results/faces "
        "--indices {resources.indices} --settings {params.settings:q} --summary {output.summary:q} "
        "--pairs {output.pairs:q} --sheet {output.sheet:q}"


rule audit_shortcuts:
    input:
        ledger="results/videos.parquet",
        splits="results/splits.parquet",
    output:
        summary="results/audits/shortcuts.json",
        figure=figure("results/audits/shortcuts.svg", "Data", "Metadata shortcuts"),
    log:
        "logs/audit_shortcuts.log",
    benchmark:
        "benchmarks/audit_shortcuts.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=2000, runtime=60),
    params:
        settings=settings("audits.shortcut_auc", "audits.on_shortcut"),
        seed=CONFIG.seed,
        code=source_digest("audits.shortcuts"),
    shell:
        "python -m unmask audits.shortcuts:audit_shortcuts --log {log:q} --ledger {input.ledger:q} "
        "--splits {input.splits:q} --settings {params.settings:q} --seed {params.seed} "
        "--output {output.summary:q} --figure {output.figure:q}"
