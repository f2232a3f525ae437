# Threadwell with its bundled agent. DATABASE_URL and REDIS_URL name servers of yours; without them it
# starts embedded ones, which keep their data in /data. docs/deployment.md tells how to use it, and how to
# put graphs of your own in.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# Traces, and `threadwell import`; `--build-arg EXTRAS=otel,import,classic` for old chains' memory too.
ARG EXTRAS=otel,import
WORKDIR /source
COPY constraints.txt ./
RUN python -m venv /opt/threadwell \
    && /opt/threadwell/bin/python -m pip install --no-cache-dir --constraint constraints.txt pip
COPY pyproject.toml README.md LICENSE ./
COPY api ./api
COPY graph ./graph
COPY store ./store
COPY threadwell ./threadwell
RUN /opt/threadwell/bin/python -m pip install --no-cache-dir \
    --constraint constraints.txt --build-constraint constraints.txt ".[${EXTRAS}]" \
    && cp constraints.txt /opt/threadwell/

FROM python:${PYTHON}-slim-bookworm
# Numbers, so that an orchestrator can see that it is not root.
RUN groupadd --gid 10001 threadwell \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin threadwell \
    && install --directory --owner 10001 --group 10001 --mode 0700 /data
COPY --from=build /opt/threadwell /opt/threadwell
COPY deploy/langgraph.json /app/langgraph.json
ENV PATH=/opt/threadwell/bin:$PATH \
    THREADWELL_HOST=0.0.0.0 \
    THREADWELL_PORT=2024 \
    THREADWELL_DATA_DIR=/data \
    LOG_JSON=true
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 2024
# It drains for up to BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS, and hands on what is unfinished.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['THREADWELL_PORT']}/ok\", timeout=4)"]
ENTRYPOINT ["threadwell"]
CMD ["serve"]
