# The packages of requirements.lock and the workflow, in one image.
#
#   docker build --tag unmask .                              PyTorch for CUDA: the lock as it is
#   docker build --tag unmask:cpu --build-arg TORCH=cpu .    PyTorch for CPUs, of the same version
#
# docs/cluster.md says how jobs run in it, and what of this has been tried.

# To pin a digest or use a mirror: --build-arg BASE=debian@sha256:…
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# Wheels bring their own libraries, including FFmpeg and OpenCV. MLflow runs record the commit, which
# needs git; tini forwards signals and reaps the worker processes of decoders and loaders.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates git python3.11 python3.11-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/venv \
    # Any user may be given with --user, and some packages write into the home folder.
    && useradd --uid 1000 --home-dir /home/unmask --create-home unmask \
    && chmod 1777 /home/unmask
ENV PATH=/opt/venv/bin:$PATH

# This layer holds all the gigabytes; it is rebuilt only when the lock changes.
WORKDIR /opt/unmask
ARG TORCH=cuda
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$TORCH" in \
        cuda) pip install --requirement requirements.lock ;; \
        cpu) grep -E '^(torch|torchvision)==' requirements.lock > /tmp/torch.txt \
            && grep -vE '^(cuda-|nvidia-|triton==)' requirements.lock > /tmp/others.txt \
            && pip install --no-deps --index-url "$TORCH_CPU_INDEX" --requirement /tmp/torch.txt \
            && pip install --requirement /tmp/others.txt \
            && rm /tmp/torch.txt /tmp/others.txt ;; \
        *) echo "TORCH=$TORCH: must be cuda or cpu" >&2; exit 2 ;; \
    esac

# Editable, because the workflow runs and digests the code next to it.
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

ARG REVISION=unknown
LABEL org.opencontainers.image.title="unmask" \
    org.opencontainers.image.description="Deepfake detection from labelled videos to a calibrated bundle" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}"

USER 1000
# Snakemake needs a user name, which a user given with --user otherwise lacks.
ENV HOME=/home/unmask USER=unmask
ENTRYPOINT ["tini", "--"]
CMD ["snakemake", "--help"]
