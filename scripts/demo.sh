#!/usr/bin/env bash
# What `make demo` shows: an ordinary FUSE mount with a policy, ordinary programs on it without and with the hook, the
# same output from both, and a policy replaced while the mount is in use. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${SF_BUILD:-$PWD/build}
shortfuse=$build/bin/shortfuse
hook=$build/lib/libshortfuse.so
files_min=2000
files_max=4000
export LC_ALL=C

work=$(mktemp -d)
mnt=$work/mnt
cleanup() {
  trap - EXIT
  if mountpoint -q "$mnt"; then
    umount "$mnt" 2>/dev/null || fusermount3 -u "$mnt" 2>/dev/null || umount -l "$mnt" 2>/dev/null ||
      fusermount3 -uz "$mnt"
  fi
  rm -rf -- "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}

make_tree() {
  mkdir -p "$work/source" "$mnt"
  local count i=0
  if [ -d /usr/include ]; then
    (cd /usr/include && find . -type f -print0 | sort -z | sed -zn "1,${files_max}p" | tar --null -T - -cf -) |
      tar -C "$work/source" -xf -
  fi
  count=$(find "$work/source" -type f | wc -l)
  while ((count + i * 100 < files_min)); do  # a machine with few headers
    mkdir -p "$work/source/generated/$i"
    seq 100 | while read -r n; do printf 'int f%s(void);\n' "$n" >"$work/source/generated/$i/$n.h"; done
    i=$((i + 1))
  done
}

# $1: a path into `shortfuse status --json`, e.g. served: the sum over all operations.
count() {
  "$shortfuse" status --json "$mnt" |
    python3 -c 'import json,sys; print(sum(op[sys.argv[1]] for op in json.load(sys.stdin)["ops"].values()))' "$1"
}

milliseconds() {  # of: command...; its output goes to $work/out
  local start=$EPOCHREALTIME end
  "$@" >"$work/out" 2>&1 || [ $? -eq 1 ]  # grep without a match says 1
  end=$EPOCHREALTIME
  echo $(((${end/./} - ${start/./}) / 1000))
}

row() { printf '  %-10s %-34s %12s %12s %9s %10s %8s  %s\n' "$@"; }

# One program without and with the hook: times, and what was served. The better of two, so that both are warm.
compare() {
  local policy=$1 name=$2
  shift 2
  local plain hooked again served missed plain_sum hooked_sum
  milliseconds "$@" >"$work/ms"
  plain=$(milliseconds "$@")
  plain_sum=$(md5sum <"$work/out")
  milliseconds env LD_PRELOAD="$hook" "$@" >"$work/ms"
  sleep 0.3  # what it missed is being fetched
  served=$(count served) missed=$(count missed)
  hooked=$(milliseconds env LD_PRELOAD="$hook" SHORTFUSE_REPORT="$work/report" "$@")
  hooked_sum=$(md5sum <"$work/out")
  served=$(($(count served) - served)) missed=$(($(count missed) - missed))
  again=same
  [ "$plain_sum" = "$hooked_sum" ] || again=DIFFERENT
  row "$policy" "$name" "$plain" "$hooked" \
    "$(awk -v a="$plain" -v b="$hooked" 'BEGIN { printf "%.1fx", a / (b > 0 ? b : 1) }')" "$served" "$missed" "$again"
  [ $again = same ] || differs=1
}

for needed in "$shortfuse" "$hook" "$build/bin/passthroughfs"; do
  [ -e "$needed" ] || fail "$needed is missing; run make demo"
done
[ -r /dev/fuse ] && [ -w /dev/fuse ] || fail "/dev/fuse cannot be opened. $("$shortfuse" doctor | grep /dev/fuse)"

say "making a tree"
make_tree
echo "  $(find "$work/source" -type f | wc -l) files, $(du -sh "$work/source" | cut -f1)"

say "mounting it: passthroughfs source mnt -o timeout=0,bpftime=metacache.bpf.o"
"$build/bin/passthroughfs" "$work/source" "$mnt" -o "timeout=0,bpftime=$build/policies/metacache.bpf.o"
for _ in $(seq 100); do
  "$shortfuse" status "$mnt" >"$work/status" 2>&1 && break
  sleep 0.1
done
"$shortfuse" status "$mnt" >"$work/status" 2>&1 || fail "the mount is not accelerated: $(cat "$work/status")"

differs=0
say "the same programs through the kernel, and with LD_PRELOAD=libshortfuse.so"
row policy program 'kernel, ms' 'hook, ms' factor served missed output
compare metacache "find -name '*.h'" find "$mnt" -name '*.h'
compare metacache 'find -size +100k' find "$mnt" -size +100k
compare metacache 'ls -lR' ls -lR "$mnt"
compare metacache 'grep -r' grep -r no-such-word-in-any-header "$mnt"

say "another policy, live: shortfuse swap mnt datacache.bpf.o"
"$shortfuse" swap "$mnt" "$build/policies/datacache.bpf.o"
echo
row policy program 'kernel, ms' 'hook, ms' factor served missed output
compare datacache 'grep -r' grep -r no-such-word-in-any-header "$mnt"
compare datacache 'ls -lR' ls -lR "$mnt"

say "what each of them had answered in its own process (SHORTFUSE_REPORT)"
python3 -c 'import json,sys
for line in open(sys.argv[1]):
  report = json.loads(line)
  print(" ", report["comm"], report["total"])' "$work/report"
say "shortfuse status mnt"
"$shortfuse" status "$mnt"

say "unmounting"
cleanup
if [ $differs -ne 0 ]; then
  fail "a program printed something else under the hook"
fi
echo "done; nothing is left behind"
