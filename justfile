# The project's tasks; `./justw --list` shows them.

set shell := ["bash", "-euo", "pipefail", "-c"]
set script-interpreter := ["bash", "-euo", "pipefail"]
set minimum-version := "1.55.0"

# The day of a run, in UTC: it names the run and the landing file, and its midnight is the event time.
day := env("RTP_DAY", datetime_utc("%Y-%m-%d"))
# Records per day.
count := env("RTP_COUNT", "1000")
# Folder for a day's records and rejects.
landing_dir := env("RTP_LANDING", ".rtp/landing")
landing_file := landing_dir / day + ".ndjson"

target := env("CARGO_TARGET_DIR", "target")
rtp := env("RTP_BIN", target / "release/rtp")
just := just_executable()

export RTP_AS_OF := day
export RTP_RUN_ID := env("RTP_RUN_ID", "day-" + day)

# Show the recipes
[default]
[private]
default:
    @{{ just }} --justfile {{ justfile() }} --list

# Run a day's whole workflow: both branches from one landing file, then verify, aggregate and heartbeat
[group('pipeline')]
[no-exit-message]
[script]
run-dag: init landing
    no=0
    # Status 1 is an answer (rejected rows, differences), so the other stages go on. Any other failure stops the run.
    for stage in api_to_kafka spark_kafka_to_cassandra batch_to_postgres verify nightly_aggregates cassandra_monitor; do
      echo "== $stage" >&2
      '{{ just }}' --no-deps "$stage" || { status=$?; [ "$status" -eq 1 ] || exit "$status"; no=1; }
    done
    exit "$no"

# Send the day's records to the event log
[group('pipeline')]
[no-exit-message]
api_to_kafka: init landing
    @'{{ rtp }}' produce --require-complete '{{ landing_file }}'

# Stream the event log's new events into the real-time store
[group('pipeline')]
[no-exit-message]
spark_kafka_to_cassandra: init
    @'{{ rtp }}' stream --until-end

# Load the day's records into the batch store
[group('pipeline')]
[no-exit-message]
batch_to_postgres: init landing
    @'{{ rtp }}' load-batch --require-complete --rejects '{{ landing_dir }}/{{ day }}.rejects.ndjson' '{{ landing_file }}'

# Verify that both stores hold the same rows
[group('pipeline')]
[no-exit-message]
verify: init
    @'{{ rtp }}' verify

# Count the day's rows by the dataset's dimensions
[group('pipeline')]
[no-exit-message]
nightly_aggregates: init
    @'{{ rtp }}' aggregate --date '{{ day }}'

# Check that the log and the stores answer, and how old their data is
[group('pipeline')]
[no-exit-message]
cassandra_monitor: init
    @'{{ rtp }}' heartbeat --once

# Fetch the day's records into the landing file, unless it already has them
[group('pipeline')]
[no-exit-message]
[script]
landing: build
    mkdir -p -m 700 '{{ landing_dir }}'
    if [ -z "${RTP_API_URL:-}${RTP_DATASET:-}" ]; then
      echo 'landing: from the practice API; for the real one, set RTP_API_URL=https://randomuser.me/api/1.4/' >&2
      exec 3< <(exec '{{ rtp }}' mock-api --port 0 2>/dev/null)
      trap "kill $! || true" EXIT
      read -r url <&3
      export RTP_API_URL="$url/api/1.4/"
    fi
    '{{ rtp }}' fetch --count '{{ count }}' --trailer --out '{{ landing_file }}' --unless-complete

# Create missing topics and tables
[group('pipeline')]
[no-exit-message]
init: build
    @'{{ rtp }}' --quiet init

# Start Kafka, Cassandra and PostgreSQL without containers, in .stack/, and wait until all of them answer
[group('servers')]
stack-up *args:
    @python3 stack/stack.py up {{ args }}

# Stop them; `--wipe` also deletes their data
[group('servers')]
stack-down *args:
    @python3 stack/stack.py down {{ args }}

# Show one line per server; exits with 1 if one does not answer
[group('servers')]
stack-status *args:
    @python3 stack/stack.py status {{ args }}

# Show the last lines of every server's log
[group('servers')]
stack-logs *args:
    @python3 stack/stack.py logs {{ args }}

# Run a day's workflow on the real servers, starting them if necessary
[group('servers')]
[no-exit-message]
[script]
run-dag-servers: stack-up
    eval "$(python3 stack/stack.py env)"
    '{{ just }}' run-dag

# Run the stream stage as a Spark job with PyPI's pyspark, on the stack or on the servers in the environment
[group('servers')]
[no-exit-message]
[script]
spark-stream *args: build
    export RTP_BIN='{{ rtp }}'
    [ -n "${RTP_EVENT_LOG:-}" ] || eval "$(python3 stack/stack.py env)"
    exec ./spark/run --checkpoint .stack/default/spark-checkpoint {{ args }}

# Count a day's rows as a Spark batch job, for example `spark-aggregate --date yesterday`, on the stack or on RTP_BATCH_STORE
[group('servers')]
[no-exit-message]
[script]
spark-aggregate *args:
    [ -n "${RTP_BATCH_STORE:-}" ] || eval "$(python3 stack/stack.py env)"
    RTP_SPARK_JOB=aggregate exec ./spark/run {{ args }}

# Run only the tests on real servers, which they start themselves; needs Java 17 and Maven
[group('servers')]
test-servers *args:
    cargo test --locked --test servers -- {{ args }}

# Run the DAGs on a real Airflow from PyPI, on embedded stores and real servers; needs Python 3.11, Java 17 and Maven
[group('servers')]
[no-exit-message]
[positional-arguments]
test-airflow *args: build
    @RTP_BIN='{{ rtp }}' ./tests/airflow/run "$@"

# Build the binary, unless RTP_BIN is set
[group('develop')]
build:
    @[ -n "${RTP_BIN:-}" ] || cargo build --release --locked

# Check format, lints, tests (with Java 17 and Maven also on real servers), licences and sources, as CI does
[group('develop')]
test: fmt-check lint unit deny

# Check everything around the commands with real tools: containers, Prometheus, Kubernetes, cron, systemd, workflows
[group('develop')]
test-ops *args: build
    ./.ci/need sqlite3
    ./.ci/need psql postgresql-client
    RTP_BIN='{{ absolute_path(rtp) }}' ./tests/ops/run {{ args }}

# Test the dashboard's page in a real browser; needs Node 20, and installs Chromium on Debian
[group('develop')]
[no-exit-message]
[positional-arguments]
test-browser *args: build
    @RTP_BIN='{{ absolute_path(rtp) }}' ./tests/browser/run "$@"

# Take the pictures of the dashboard in docs/images
[group('develop')]
screenshots:
    @./tests/browser/run --screenshots

# Measure the dashboard with 10,000,000 events behind it: docs/benchmarks.md
[group('develop')]
[positional-arguments]
bench-dashboard *args:
    cargo build --release --locked
    @RTP_BIN='{{ absolute_path(target / "release/rtp") }}' ./tests/browser/run --bench "$@"

# Compare verify on live data with bare scans of the same tables on the stack: docs/benchmarks.md
[group('develop')]
[script]
bench-live *args: stack-up
    eval "$(python3 stack/stack.py env)"
    cargo bench --locked --bench live -- {{ args }}

# The same with a processor core for Cassandra alone, as if on a machine of its own; it needs two cores
[group('develop')]
[script]
bench-live-apart *args: stack-up
    eval "$(python3 stack/stack.py env)"
    cargo bench --locked --no-run --bench live
    trap 'python3 stack/stack.py pin' EXIT
    python3 stack/stack.py pin --only cassandra --cores 0
    python3 stack/stack.py pin --only kafka,postgres --cores 1
    taskset --cpu-list 1 cargo bench --locked --bench live -- {{ args }}

# Check the format
[group('develop')]
fmt-check:
    cargo fmt --check

# Run clippy; every warning is an error
[group('develop')]
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Run the tests
[group('develop')]
unit:
    ./.ci/need sqlite3
    ./.ci/need python3
    ./.ci/need psql postgresql-client
    ./.ci/need openssl
    cargo test --locked

# Check dependencies' licences, duplicates and sources
[group('develop')]
deny:
    ./.ci/cargo-deny check bans licenses sources

# Compare with bare loops, as ratios within one run: docs/benchmarks.md
[group('develop')]
bench *args:
    cargo bench --locked {{ args }}

# Compare with kcat, Spark and psql on the stack; they must be installed: docs/benchmarks.md
[group('develop')]
[script]
bench-servers *args: build stack-up
    eval "$(python3 stack/stack.py env)"
    RTP_BIN='{{ rtp }}' python3 benches/peers.py {{ args }}
