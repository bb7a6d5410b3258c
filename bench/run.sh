#!/bin/bash
# Runs the benchmarks of one area, or of all, and writes bench/results/AREA.jsonl.
#
#   bench/run.sh [AREA] [COUNT]
#
# Most areas are Go benchmarks of packages. The others are programs that print
# the same: coldstart, fuse and guest need root and what "make demo" needs.
#
# The machine and the versions are the first line of each file. The tables of
# docs/benchmarks.md are made from the files by `make bench-tables`.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A areas=(
	[p9]=./p9server
	[cache]="./chunkstore -skip=^BenchmarkStore"
	[store]="./chunkstore -bench=^BenchmarkStore -count=1 -timeout=30m"
	[index]=./layerindex
	[estargz]="./estargz ./internal/inflate"
	[fetch]="./internal/fetch ./internal/source/..."
	[zran]="./internal/zran ./internal/image"
	[mount]="./internal/mount ./internal/p9client"
	[snapshotter]=./snapshotter
	[netshape]=./internal/netshape
	[convert]=bench/convert
	[coldstart]=bench/coldstart
	[throughput]=bench/throughput
	[read]=bench/read
	[share]=bench/share
	[memory]=bench/memory
	[fuse]=bench/fuse
	[guest]=bench/guest
	[ninep]=bench/ninep
)
wanted=${1:-all} count=${2:-5}
if [ "$wanted" = all ]; then
	wanted=$(printf '%s\n' "${!areas[@]}" | sort)
fi
mkdir -p bench/results
for area in $wanted; do
	packages=${areas[$area]-}
	if [ -z "$packages" ]; then
		echo "$0: no area $area; there are: ${!areas[*]}" >&2
		exit 2
	fi
	echo "== $area" >&2
	if [ "$area" = zran ] || [ "$area" = throughput ]; then
		NINEPLY_BENCH_LAYER=$(bench/convert/layer.sh) # a large one
		export NINEPLY_BENCH_LAYER
	fi
	if [ "$area" = zran ]; then
		if [ ! -f "$NINEPLY_BENCH_LAYER.gz" ]; then
			gzip -6 -n -c "$NINEPLY_BENCH_LAYER" >"$NINEPLY_BENCH_LAYER.gz.tmp"
			mv "$NINEPLY_BENCH_LAYER.gz.tmp" "$NINEPLY_BENCH_LAYER.gz"
		fi
	fi
	{
		printf '{"area":"%s","commit":"%s","go":"%s","kernel":"%s","cpus":%d,"date":"%s"}\n' "$area" \
			"$(git rev-parse --short HEAD)" "$(go env GOVERSION)" "$(uname -r | cut -d. -f1,2)" "$(nproc)" "$(date -u +%FT%TZ)"
		case $packages in
		bench/*) # a program; what it says to a person passes by
			make --no-print-directory build >&2
			go run "./$packages" -runs "$count" | go run ./bench/record
			;;
		*)
			# shellcheck disable=SC2086 # a list of packages
			go test -run '^$' -bench . -benchmem -count "$count" $packages 2>&1 | go run ./bench/record
			;;
		esac
	} >"bench/results/$area.jsonl.tmp"
	mv "bench/results/$area.jsonl.tmp" "bench/results/$area.jsonl"
done
