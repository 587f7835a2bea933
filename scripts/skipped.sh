#!/usr/bin/env bash
# What the last ctest run in BUILD left out although its programs passed: GoogleTest's skips, each with its reason.
# ctest itself names only whole programs.
set -euo pipefail
log=$1/Testing/Temporary/LastTest.log
[ -r "$log" ] || exit 0
awk '/: Skipped$/ { place = $1; getline; print "skipped: " place " " $0; n++ }
     END { if (!n) print "nothing was skipped inside the tests" }' "$log"
