#!/bin/sh
# driver_test.sh COMPILER: the driver used without libFuzzer. A crash is left behind the prefix that was given and
# nobody else takes it away; with -runs and -seed a run is the same each time.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
fail() { echo "driver_test: $*" >&2; exit 1; }

cat >"$T/target.cc" <<'CC'
#include <cstdint>
#include <cstdio>
#include <cstdlib>
extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 5 && data[0] == 'c') abort();
  uint32_t sum = 0;
  for (size_t i = 0; i < size; i++) sum = sum * 31 + data[i];
  fprintf(stderr, "%u\n", sum);
  return 0;
}
CC
"$1" -std=c++23 "$here/driver.cc" "$T/target.cc" -o "$T/target"
mkdir "$T/good" "$T/elsewhere"
echo -n good >"$T/good/a"
echo -n crash >"$T/crash"
cd "$T/elsewhere"

if (ulimit -c 0; exec "$T/target" -artifact_prefix="$T/one." "$T/crash") 2>"$T/log"; then fail "it did not crash"; fi
"$T/target" -runs=200 -seed=1 -artifact_prefix="$T/two." "$T/good" >"$T/said" 2>"$T/first" ||
  fail "$(tail -n 3 "$T/first")"
[ "$(cat "$T/one.crash-last")" = crash ] || fail "what crashed is not kept"
[ ! -e "$T/two.crash-last" ] || fail "what did not crash is kept"
[ -z "$(ls -A)" ] || fail "it writes where it was started: $(ls -A)"
grep -q '^200 runs after 1 seeds$' "$T/said" || fail "$(cat "$T/said")"
[ "$(wc -l <"$T/first")" = 201 ] || fail "$(wc -l <"$T/first") inputs"

echo "$T/good/a" >"$T/list"
"$T/target" -runs=200 -seed=1 "-seed_inputs=@$T/list" >"$T/said" 2>"$T/second"
cmp "$T/first" "$T/second" || fail "another run with the same seed"
"$T/target" -runs=200 -seed=2 "$T/good" >"$T/said" 2>"$T/third"
! cmp -s "$T/first" "$T/third" || fail "the same run with another seed"
