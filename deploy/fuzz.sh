#!/bin/bash
# Runs every fuzz target of the module for a while: deploy/fuzz.sh [TIME]
# Those of the module in e2e/conformance are run by `make conformance`.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
targets=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz TARGET DIR: once more if only the fuzzing engine failed. At the end of the time
# it may take its own deadline for an error: its context is done before those that it
# derived from it, and between the two it compares them (internal/fuzz, Go 1.26). Then
# the message is that alone, without a panic and without an input written down.
fuzz() {
	local try
	for try in 1 2 3 4 5; do
		# Much of what is fuzzed has goroutines: to minimise what seems new again and
		# again would take all of the time.
		if go test -run '^$' -fuzz "^$1\$" -fuzztime "$time" -fuzzminimizetime 20x "$2" 2>&1 | tee "$log"; then
			return 0
		fi
		if grep -qE 'Failing input written|panic:|fatal error:|\.go:[0-9]+:|DATA RACE' "$log" ||
			! grep -qx '    context deadline exceeded' "$log"; then
			return 1
		fi
		echo "the fuzzing engine's own deadline (run $try): once more"
	done
	return 1
}

for dir in $(grep -rl --include='*_test.go' --exclude-dir=conformance '^func Fuzz' . | xargs -r -n 1 dirname | sort -u); do
	for target in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | sort -u); do
		echo "== $dir $target"
		fuzz "$target" "$dir"
		targets=$((targets + 1))
	done
done
echo "$targets fuzz targets, $time each"
