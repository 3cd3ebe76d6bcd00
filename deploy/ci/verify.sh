#!/usr/bin/env bash
# Verifies a pipeline in CI: compares every row and value of both stores and ends as `rtp verify` does: 0 equal, 1 not, 2
# configuration, 4 a server down, 5 data missing. The addresses are RTP_REALTIME_STORE and RTP_BATCH_STORE, the arguments
# those of `rtp verify`. Tables that are both empty are not content, but a pipeline that did not run: status 1.
#
#   VERIFY_OUTPUT  file of every difference (differences.ndjson); it holds values of records
#   RTP_BIN        the binary (rtp)
#
# On GitHub the verdict becomes the job's summary and, if it is bad, an error on the run; neither holds a record's values.
set -euo pipefail
output=${VERIFY_OUTPUT:-differences.ndjson}
rtp=${RTP_BIN:-rtp}
command -v "$rtp" > /dev/null || { echo "verify.sh: there is no $rtp: install rtp, or name it by RTP_BIN" >&2; exit 2; }

# A secret that is not set is an empty variable on GitHub; rtp takes that for a mistake.
for name in RTP_CASSANDRA_PASSWORD RTP_POSTGRES_PASSWORD; do
  [ -n "${!name:-}" ] || unset "$name"
done

rm -f "$output"
status=0
# --sample 0: the log of a CI run is no place for what is in a row.
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
