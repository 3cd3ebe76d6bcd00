# Two images from one file:
#   docker build --target rtp .       only the binary, for the services of docker-compose.yml and for Kubernetes
#   docker build --target airflow .   Airflow with the same binary and the DAGs inside
# It uses no BuildKit mounts or other newer features, so every builder can read it.

# ---- build: the same command as CI, on Debian 12 like the two images, so that the glibc versions match ----
FROM rust:1.95.0-bookworm AS build
WORKDIR /src

# The dependencies first, with empty sources of our own: this layer is rebuilt only when a version changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
    && for file in src/main.rs benches/pipeline.rs benches/fetch.rs benches/verify.rs benches/live.rs; do echo 'fn main() {}' > "$file"; done \
    && touch src/lib.rs \
    && cargo build --release --locked

# COPY keeps the files' timestamps, which cargo goes by: without the touch it would keep the empty binary.
COPY schema/users.toml schema/
COPY src src
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked \
    && target/release/rtp --version

# ---- rtp ----
# Not distroless: the health checks of docker-compose.yml need a shell, and libz is already here.
FROM debian:bookworm-20250811-slim AS rtp
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/rtp /usr/local/bin/rtp
# For the landing files and the embedded stores; a volume mounted here gets this owner.
RUN install -d -o 65532 -g 65532 -m 0750 /var/lib/rtp
WORKDIR /var/lib/rtp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/rtp"]
CMD ["--help"]

# ---- airflow ----
FROM python:3.11.14-slim-bookworm AS airflow
ENV AIRFLOW_HOME=/opt/airflow PYTHONUNBUFFERED=1
# The first file is what the DAGs' tests use; the second adds what Airflow's own database on PostgreSQL needs.
COPY dags/requirements-airflow3.txt deploy/compose/requirements-airflow.txt /opt/requirements/
RUN pip install --no-cache-dir --disable-pip-version-check \
        -r /opt/requirements/requirements-airflow3.txt -r /opt/requirements/requirements-airflow.txt \
    && pip check \
    && useradd --uid 50000 --gid 0 --home-dir /opt/airflow airflow \
    && install -d -o 50000 -g 0 -m 0775 /opt/airflow /opt/airflow/logs /opt/airflow/dags \
    && install -d -o 50000 -g 0 -m 0750 /var/lib/rtp /var/lib/rtp/metrics
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/rtp /usr/local/bin/rtp
COPY dags /opt/airflow/dags
WORKDIR /opt/airflow
USER 50000:0
ENTRYPOINT ["airflow"]
CMD ["version"]
