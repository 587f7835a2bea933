#!/usr/bin/env bash
# policy-vm for others: an application builds against the installed package and runs its plug-in, and the folder
# configures and builds when it is all that somebody has.
set -eu
source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
fail() { echo "embed_test: $*" >&2; exit 1; }
quietly() { "$@" >"$T/log" 2>&1 || { tail -n 20 "$T/log" >&2; fail "$*"; }; }

# Installed somewhere, then moved: nothing in the package may know the way back.
quietly cmake --install "$SF_BUILD" --component shortfuse-vm --prefix "$T/first"
mv "$T/first" "$T/prefix"
[ "$(find "$T/prefix" -name '*.h' | wc -l)" = 2 ] || fail "headers: $(find "$T/prefix" -name '*.h')"
library=$(find "$T/prefix" -name libshortfuse-vm.so)
exported=$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}' | grep -cv '^sf_engine_' || true)
[ "$exported" = 0 ] || fail "it exports more than the engine: $(nm -D --defined-only "$library" | head)"

quietly cmake -S "$source_tree/examples/embed" -B "$T/embed" -DCMAKE_PREFIX_PATH="$T/prefix"
quietly cmake --build "$T/embed"
"$T/embed/embed" "$T/embed/limit.bpf.o" >"$T/output" || fail "the example: $(cat "$T/output")"
for line in 'user 7 wants 600000, gets 600000' 'user 7 wants 200000, gets 0' '  user 7 is over the limit' \
            'user 8 has had 900000'; do
  grep -qxF -- "$line" "$T/output" || fail "\"$line\" is not in: $(cat "$T/output")"
done
lines=$(grep -cvE '^[[:space:]]*(/?\*.*)?$' "$source_tree/examples/embed/main.c")
[ "$lines" -le 45 ] || fail "the example has grown to $lines lines"

cp -r "$source_tree/policy-vm" "$T/alone"
# The sources are compiled as ever by the project's own build; here it is seen that they are complete.
flags=(-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O0)
[ -z "${SHORTFUSE_SOAK:-}" ] || flags=()
quietly cmake -S "$T/alone" -B "$T/alone/build" -DSF_BUILD_TESTS=ON "${flags[@]}"
if [ -n "${SHORTFUSE_SOAK:-}" ]; then
  quietly cmake --build "$T/alone/build" -j 2
  # The folder's tests at length are the whole project's soak; here they only have to run from where it stands alone.
  quietly env -u SHORTFUSE_SOAK ctest --test-dir "$T/alone/build" --output-on-failure
else
  quietly cmake --build "$T/alone/build" -j 2 --target sf_engine
fi
echo ok
