"""Demo: writes the miniature challenge if data_root or test_root is one and it does not exist.

resources/demo/train/dfdc_train_part_{0,1}/    clips and metadata.json
resources/demo/test/                           test_videos/ and sample_submission.csv
"""


rule demo:
    output:
        parts=directory(DEMO_PARTS),
        videos=directory("resources/demo/test/test_videos"),
        sample="resources/demo/test/sample_submission.csv",
    log:
        "logs/demo.log",
    benchmark:
        "benchmarks/demo.tsv"
    conda:
        "../../environment.yml"
    resources:
        **growing(mem_mb=1000, runtime=10),
    # Snakemake has made folders for the outputs.
    shell:
        "rm -rf resources/demo && python -m unmask demo resources/demo --log {log:q}"
