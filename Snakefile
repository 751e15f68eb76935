# The workflow itself is workflow/Snakefile; this file lets `snakemake` be typed in the repository.
# An included `rule all` does not become the default target by itself, hence the second line.
include: "workflow/Snakefile"


workflow.default_target = "all"
