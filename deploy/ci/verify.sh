#!/usr/bin/env bash
# Verifies a pipeline in CI: compares every row and value of both stores and exits like `rtp verify`: 0 they agree, 1 they do
# not, 2 configuration, 4 a server is down, 5 data is missing. Set the addresses RTP_EVENT_LOG, RTP_REALTIME_STORE and
# RTP_BATCH_STORE; the arguments are those of `rtp verify`. If both tables are empty, the pipeline did not run: status 1.
#
#   VERIFY_OUTPUT  NDJSON file for all differences (differences.ndjson); it contains values from records
#   RTP_BIN        the binary (rtp)
#
# On GitHub the verdict becomes the job's summary and, if it is bad, an error on the run; neither contains values from
# records.
set -euo pipefail
output=${VERIFY_OUTPUT:-differences.ndjson}
case $output in *.csv) echo "verify.sh: VERIFY_OUTPUT is NDJSON; name it *.ndjson" >&2; exit 2 ;; esac
rtp=${RTP_BIN:-rtp}
command -v "$rtp" > /dev/null || { echo "verify.sh: $rtp not found: install rtp, or set RTP_BIN" >&2; exit 2; }

# An unset secret is an empty variable on GitHub, which rtp rejects.
for name in RTP_CASSANDRA_PASSWORD RTP_POSTGRES_PASSWORD; do
  [ -n "${!name:-}" ] || unset "$name"
done

rm -f "$output"
status=0
# --sample 0: values from rows do not belong in a CI log.
"$rtp" --log-format text verify --require-records --sample 0 --output "$output" "$@" || status=$?

case $status in
  0) verdict="in agreement" ;;
  1) verdict="not in agreement" ;;
  *) verdict="not compared: status $status" ;;
esac
count() { grep -c "\"class\":\"$1\"" "$output" 2> /dev/null || true; }

if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  {
    echo "### rtp verify: $verdict"
    if [ -s "$output" ]; then
      echo
      echo "| class | differences |"
      echo "|---|---|"
      for class in lost changed_outside duplicate unexplained dead_letter rejected older_version not_loaded_yet in_flight expired; do
        [ "$(count "$class")" = 0 ] || echo "| $class | $(count "$class") |"
      done
    fi
  } >> "$GITHUB_STEP_SUMMARY"
fi
if [ "$status" -ne 0 ] && [ -n "${GITHUB_ACTIONS:-}" ]; then
  echo "::error title=rtp verify::$verdict"
fi
exit "$status"
