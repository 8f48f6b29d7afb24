# In place of postgres:17: Debian's server under the same user and folder, with the same first start.
ARG PYTHON
FROM ${PYTHON}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql \
    && groupmod --gid 999 --non-unique postgres && usermod --uid 999 --non-unique postgres \
    && ln -s /usr/lib/postgresql/*/bin /opt/postgresql \
    && install -d -o 999 -g 999 -m 700 /var/lib/postgresql/data && install -d -o 999 -g 999 /var/run/postgresql
ENV PATH=/opt/postgresql:$PATH PGDATA=/var/lib/postgresql/data
COPY --chmod=755 <<'SH' /start
#!/bin/bash
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username "$POSTGRES_USER" --pwfile <(printf %s "$POSTGRES_PASSWORD") --encoding UTF8 --auth-local trust --auth-host scram-sha-256
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --wait --options "-c listen_addresses=''" start
  createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl --wait stop
fi
exec postgres -c listen_addresses='*'
SH
USER 999:999
ENTRYPOINT ["/start"]
