# In place of redis:7: Debian's server.
ARG PYTHON
FROM ${PYTHON}
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server
USER 999:1000
CMD ["redis-server"]
