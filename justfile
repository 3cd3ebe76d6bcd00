# The project's tasks; `./justw --list` shows them.

set shell := ["bash", "-euo", "pipefail", "-c"]
set minimum-version := "1.55.0"

# Show the recipes
[default]
[private]
default:
    @just --justfile {{ justfile() }} --list

# Check format, lints, tests, licences and sources: what CI runs
[group('develop')]
test: fmt-check lint unit deny

# Check the format
[group('develop')]
fmt-check:
    cargo fmt --check

# Run clippy, every warning an error
[group('develop')]
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Run the tests
[group('develop')]
unit:
    cargo test --locked

# Check dependencies' licences, duplicates and sources
[group('develop')]
deny:
    ./.ci/cargo-deny check bans licenses sources
