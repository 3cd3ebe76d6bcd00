#!/usr/bin/env bash
# Verifies a pipeline in CI: compares every row and value of both stores and exits like `rtp verify`: 0 equal, 1 not equal,
# 2 configuration, 4 a server is down, 5 data is missing. Set the addresses RTP_REALTIME_STORE and RTP_BATCH_STORE; the
# arguments are those of `rtp verify`. If both tables are empty, the pipeline did not run: status 1.
#
#   VERIFY_OUTPUT  file for all differences (differences.ndjson); it contains values from records
#   RTP_BIN        the binary (rtp)
#
# On GitHub the verdict becomes the job's summary and, if it is bad, an error on the run; neither contains values from
# records.
set -euo pipefail
output=${VERIFY_OUTPUT:-differences.ndjson}
rtp=${RTP_BIN:-rtp}
command -v "$rtp" > /dev/null || { echo "verify.sh: $rtp not found: install rtp, or set RTP_BIN" >&2; exit 2; }

# An unset secret is an empty variable on GitHub, which rtp rejects.
for name in RTP_CASSANDRA_PASSWORD RTP_POSTGRES_PASSWORD; do
  [ -n "${!name:-}" ] || unset "$name"
done

rm -f "$output"
status=0
# --sample 0: values from rows do not belong in a CI log.
"$rtp" --log-format text verify --require-records --sample 0 --output "$output" --format ndjson "$@" || status=$?

case $status in
  0) verdict="equal" ;;
  1) verdict="not equal" ;;
  *) verdict="not compared: status $status" ;;
esac
count() { grep -c "\"class\":\"$1\"" "$output" 2> /dev/null || true; }

if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  {
    echo "### rtp verify: $verdict"
    if [ "$status" -eq 1 ]; then
      echo
      echo "| class | differences |"
      echo "|---|---|"
      for class in missing extra changed duplicate; do echo "| $class | $(count "$class") |"; done
    fi
  } >> "$GITHUB_STEP_SUMMARY"
fi
if [ "$status" -ne 0 ] && [ -n "${GITHUB_ACTIONS:-}" ]; then
  echo "::error title=rtp verify::$verdict"
fi
exit "$status"
