#!/bin/sh
# Runs each fuzz test of the tree for a while: fuzz.sh 10s. What one finds stays
# in the testdata/fuzz of its package, and fails go test from then on.
set -eu
cd "$(dirname "$0")/.."
span=${1:?usage: fuzz.sh TIME}
go=${GO:-go}
for package in $($go list ./...); do
	for name in $($go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $name"
		$go test -run '^$' -fuzz "^$name\$" -fuzztime "$span" "$package"
	done
done
