# syntax=docker/dockerfile:1
#
#   docker build -t param-recipes .
#   docker build -t param-recipes --build-arg REVISION="$(git rev-parse HEAD)" --build-arg CREATED="$(date -Iseconds)" .
#   docker build -t param-recipes:cpu --build-arg BASE_IMAGE=python:3.12-slim-bookworm \
#       --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
#
# The default is the image on which megatron-core 0.16 is tested by its developers: torch 2.10 alpha, Transformer
# Engine 2.9 to 2.11, CUDA 13 (driver R580 or newer). A plain Python or Debian image gives a CPU-only image.
# docs/containers.md tells how it is run.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.11-py3
FROM ${BASE_IMAGE}

USER 0

# Plain images lack these (the compiler is for torch.compile, which also reads Python.h); NGC images have them.
# The packages of a distribution release are not pinned: its updates are security fixes.
# hadolint ignore=DL3008
RUN set -- ; \
    python3 -c 'import ensurepip, venv' 2>/dev/null || set -- "$@" python3 python3-venv; \
    ls "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" >/dev/null 2>&1 || \
        set -- "$@" python3-dev; \
    command -v g++ >/dev/null || set -- "$@" g++; \
    if [ "$#" -gt 0 ]; then \
        apt-get update && \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" && \
        rm -rf /var/lib/apt/lists/*; \
    fi

# Any user can run it (Slurm runs containers as the submitting user); nothing is written at run time but what is
# mounted, and caches (docker/entrypoint.sh).
RUN useradd --create-home --uid 10001 param && mkdir -p /workspace && chmod 1777 /workspace

# A virtual environment on top of the image's Python: it uses the image's torch and Transformer Engine without
# changing them. NGC images set a global PIP_CONSTRAINT that pins many packages; ours replaces it.
ARG PIP_EXTRA_INDEX_URL=
ENV LANG=C.UTF-8 \
    PIP_CONSTRAINT= \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:${PATH}
WORKDIR /opt/param-recipes
COPY pyproject.toml constraints.txt ./
COPY docker/image_requirements.py docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --system-site-packages /opt/venv && \
    python docker/image_requirements.py write /opt/build && \
    pip install -r /opt/build/requirements.txt -c /opt/build/constraints.txt && \
    python docker/image_requirements.py check /opt/build

# From here on layers are small: a change of the code moves some megabytes, not the packages.
COPY . .
# Editable, because conf/ is beside the package, not inside it. Compiled here, because nobody can write there later.
RUN pip install --no-cache-dir --no-deps -e . && \
    python -m compileall -q recipes tools benchmarks && \
    python -c 'import recipes, torch; print("torch", torch.__version__)' && \
    python -m recipes.pretrain --help >/dev/null

USER 10001
WORKDIR /workspace
ENTRYPOINT ["/opt/param-recipes/docker/entrypoint.sh"]
CMD ["help"]
EXPOSE 5555
# Jobs other than the server are healthy as long as they run. Large models need minutes to load.
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m --retries=3 \
    CMD ["python3", "-I", "-S", "/opt/param-recipes/docker/server_health.py"]

# Last: a new value would make all layers after it anew.
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Param Recipes" \
      org.opencontainers.image.description="Pretraining recipes for bilingual English-Hindi language models on NeMo and Megatron-Core" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
