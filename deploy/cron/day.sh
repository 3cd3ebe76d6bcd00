#!/bin/sh
# A day's whole workflow in one script, for cron and systemd: what `just run-dag` does, without just. Install it as
# /usr/local/lib/rtp/day.sh. Running it again for the same day changes nothing.
#   RTP_DAY      the day, in UTC (today)
#   RTP_COUNT    records per day (1000)
#   RTP_LANDING  folder of the landing files (/var/lib/rtp/landing); they are deleted after RTP_KEEP_DAYS (30) days
#   RTP_METRICS_DIR  folder in which each stage writes its final metrics, for node_exporter's textfile collector (none)
# Exits with the status of the stage that stopped it, with 1 if an answer was "no", otherwise with 0.
set -eu
day=${RTP_DAY:-$(date -u +%F)}
landing=${RTP_LANDING:-/var/lib/rtp/landing}
file=$landing/$day.ndjson
export RTP_AS_OF="$day" RTP_RUN_ID="${RTP_RUN_ID:-day-$day}"
# The records are personal data.
umask 077
mkdir -p "$landing"

# A run holds the lock until it ends: two at once would only do everything twice.
exec 9> "$landing/.day.lock"
flock -n 9 || { echo "day.sh: another run is still in progress" >&2; exit 0; }

# Status 1 is an answer (rejected rows, differences, stale data), so the other stages go on. Any other failure stops the run.
no=0
stage() {
  status=0
  [ -z "${RTP_METRICS_DIR:-}" ] || export RTP_METRICS_FILE="$RTP_METRICS_DIR/$1.prom"
  rtp --quiet "$@" || status=$?
  [ "$status" -le 1 ] || exit "$status"
  [ "$status" -eq 0 ] || no=1
}

stage init
stage fetch --count "${RTP_COUNT:-1000}" --trailer --out "$file" --unless-complete
stage produce --require-complete "$file"
# If a following stream runs as a service, this one only waits until the group has reached the end.
stage stream --until-end
stage load-batch --require-complete --rejects "$landing/$day.rejects.ndjson" "$file"
stage verify
stage aggregate --date "$day"
find "$landing" -name '*.ndjson' -mtime "+${RTP_KEEP_DAYS:-30}" -delete
exit "$no"
