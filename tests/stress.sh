#!/bin/sh
# usage: tests/stress.sh SECONDS [REPORT]
#
# Has stress-ng work on the kernel's IPC objects with --verify, and prints what came of it in a form
# that two runs can be compared by: each kind that was worked on, what has failed or been skipped,
# and the exit status. stress-ng's own report, which has the rates, goes to the file REPORT.
set -eu
seconds=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# stress-ng may give up its rights.
chmod 777 "$work"
report=${2:-$work/report}
status=0
stress-ng --mq 1 --msg 1 --sem 1 --sem-sysv 1 --shm 1 --shm-sysv 1 --fifo 1 --verify \
	--shm-bytes 1M --shm-sysv-bytes 1M --metrics-brief --yaml "$report" --temp-path "$work" \
	--timeout "$seconds" >"$work/output" 2>&1 || status=$?
# One line for each kind: "stressor: mq", and some way below "bogo-ops: 956538".
awk '$1 == "-" && $2 == "stressor:" { kind = $3 }
	$1 == "bogo-ops:" { print kind, ($2 > 0 ? "has worked" : "has done nothing") }' "$report" | sort
grep -iE 'fail|error|skip|warn' "$work/output" | sed 's/\[[0-9]*\] *//' | sort || true
echo "exit status $status"
