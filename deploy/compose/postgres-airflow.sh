#!/bin/sh
# Makes Airflow's own database beside the batch store's, at the first start of PostgreSQL (docker-entrypoint-initdb.d).
# The image sources it where it is not executable, so that it sets no option of the shell; the last command is its status.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" << 'SQL'
\set password `cat "${RTP_SECRETS:-/run/secrets}/postgres/airflow_password"`
CREATE ROLE airflow LOGIN PASSWORD :'password';
CREATE DATABASE airflow OWNER airflow;
SQL
