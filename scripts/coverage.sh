#!/usr/bin/env bash
# Line and branch coverage of the tests: a table, and build-coverage/coverage.html with the lines.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh --coverage
scripts/build.sh coverage
find build-coverage -name '*.gcda' -delete
ctest --test-dir build-coverage --output-on-failure --parallel "$(nproc)" || echo "coverage: some tests failed" >&2
gcovr --root . --exclude tests/ --exclude 'build-.*' --print-summary --html-details build-coverage/coverage.html \
    build-coverage
echo "coverage: build-coverage/coverage.html"
