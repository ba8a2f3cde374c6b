# llm2ws in a container: `docker compose up`, or
#   docker build -t llm2ws . && docker run --rm llm2ws --help
# Any base with Python 3.11 or later, its venv module and glibc will do.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip stays behind in an environment of its own.
RUN python3 -m venv /tools && python3 -m venv --without-pip /venv
# What is locked changes more rarely than what is ours.
COPY requirements.lock /src/
RUN /tools/bin/pip --python /venv/bin/python install --quiet --require-hashes -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md /src/
COPY llm2ws /src/llm2ws
RUN /tools/bin/pip --python /venv/bin/python install --quiet --no-deps --no-build-isolation /src \
    # numpy brings its own tests: 17 MB
    && find /venv/lib -path '*/numpy/*' -name tests -type d -prune -exec rm -r {} +

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="llm2ws" \
      org.opencontainers.image.description="LLM stream in, speech out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later"
COPY --from=build /venv /venv
COPY config/container.toml /etc/llm2ws/llm2ws.toml
COPY config/container-keys.toml /etc/llm2ws/keys.toml
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
# Some bases bring a standard library without bytecode, and a read-only root can keep none: whatever the daemon and the health
# check load is loaded once here. A base on which it cannot speak ends the build.
RUN python3 -c "import anthropic, openai, urllib.request, uvloop, llm2ws.server.life" \
    && llm2ws say "Ready." --quiet --output /tmp/ready.wav && rm /tmp/ready.wav
# By number, so that an orchestrator can see that it is not root. It owns no file.
USER 10001:10001
EXPOSE 8765
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"]
ENTRYPOINT ["llm2ws"]
# Without client keys it refuses to serve others; docker-compose.yml shows how to allow that on a machine of your own.
CMD ["serve", "--listen", "0.0.0.0:8765"]
