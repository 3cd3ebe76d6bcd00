#!/bin/sh
# Creates Airflow's own database next to the batch store's, on PostgreSQL's first start (docker-entrypoint-initdb.d).
# The image sources this file if it is not executable, so it must not set shell options; the last command is its status.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" << 'SQL'
\set password `cat "${RTP_SECRETS:-/run/secrets}/postgres/airflow_password"`
CREATE ROLE airflow LOGIN PASSWORD :'password';
CREATE DATABASE airflow OWNER airflow;
SQL
