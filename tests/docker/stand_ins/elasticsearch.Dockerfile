# In place of Elastic's image: the server of their minimal distribution, which has no life cycle of data streams and takes
# no users and roles by its API. The build context is its folder. Settings and the first password come from the
# environment, as there; our users and roles come from the environment and from /roles.yml.
ARG PYTHON
FROM ${PYTHON}
RUN apt-get update && apt-get install --yes --no-install-recommends default-jre-headless curl
COPY --chown=1000:0 . /usr/share/elasticsearch
RUN cd /usr/share/elasticsearch && install -d -o 1000 -g 0 data logs plugins config/jvm.options.d && chown 1000:0 . \
    && chmod -R u+w config
COPY --chmod=755 <<'SH' /start
#!/bin/bash
set -eu
cd /usr/share/elasticsearch
if [ ! -e config/elasticsearch.keystore ]; then
  cp /roles.yml config/roles.yml
  for user in WRITER READER PASSAGES SEARCH; do
    password=ELASTICSEARCH_${user}_PASSWORD
    bin/elasticsearch-users useradd "llmops_${user,,}" -p "${!password}" -r "llmops_${user,,}"
  done
  bin/elasticsearch-keystore create
  printf %s "$ELASTIC_PASSWORD" | bin/elasticsearch-keystore add --stdin bootstrap.password
fi
# The distribution for tests takes a nearly full disk for a full one.
exec bin/elasticsearch -E discovery.type=single-node -E network.host=0.0.0.0 -E xpack.security.enabled=true \
  -E xpack.security.http.ssl.enabled=false -E cluster.routing.allocation.disk.threshold_enabled=false
SH
ENV ES_JAVA_HOME=/usr/lib/jvm/default-java ES_TMPDIR=/tmp
USER 1000:0
ENTRYPOINT ["/start"]
