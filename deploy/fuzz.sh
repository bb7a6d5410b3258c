#!/bin/bash
# Runs every fuzz target of the module for a while: deploy/fuzz.sh [TIME]
# Those of the module in e2e/conformance are run by `make conformance`.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
targets=0
for dir in $(grep -rl --include='*_test.go' --exclude-dir=conformance '^func Fuzz' . | xargs -r -n 1 dirname | sort -u); do
	for target in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort -u); do
		echo "== $dir $target"
		# Much of what is fuzzed has goroutines: to minimise what seems new again and
		# again would take all of the time.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x "$dir"
		targets=$((targets + 1))
	done
done
echo "$targets fuzz targets, $time each"
