#!/usr/bin/env bash
# Whatever is wrong with a mount's options or its policy: one clear line on standard error, a status other than 0,
# nothing mounted and no daemon left; for a file system that links the bridge and for one under `shortfuse mount`.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$T/source" "$T/mnt"
echo text >"$T/source/f"
good=$POLICIES/metacache.bpf.o
head -c 900 "$good" >"$T/truncated.bpf.o"
head -c 4096 /dev/zero >"$T/zeros.bpf.o"
: >"$T/empty.bpf.o"
echo "not an object" >"$T/text.bpf.o"
cp "$BIN/shortfuse" "$T/native.bpf.o"
# The same object, said to be for another machine (e_machine, bytes 18 and 19).
cp "$good" "$T/machine.bpf.o"
printf '\076\000' | dd of="$T/machine.bpf.o" bs=1 seek=18 conv=notrunc status=none
mkfifo "$T/fifo.bpf.o"
ln -s "$T/loop.bpf.o" "$T/loop.bpf.o"
cp "$good" "$T/unreadable.bpf.o"
chmod 000 "$T/unreadable.bpf.o"

no_hang_no_crash() { [ "$1" != 124 ] && [ "$1" -lt 128 ]; }
refused() {  # refused WHAT ERRFILE STATUS
  [ "$3" != 0 ] || fail "$1: status 0"
  no_hang_no_crash "$3" || fail "$1: status $3 (a hang or a crash): $(cat "$2")"
  local lines
  lines=$(grep -c . "$2")
  [ "$lines" = 1 ] || fail "$1: $lines lines on standard error, not one: $(cat "$2")"
  is_mounted "$T/mnt" && fail "$1: mounted"
  [ "$(cat "$2" | wc -c)" -ge 20 ] || fail "$1: says nothing: $(cat "$2")"
  return 0
}
try() {  # try WHAT OPTIONS
  timeout 20 "$BIN/passthroughfs" "$T/source" "$T/mnt" -o "$2" >"$T/out" 2>"$T/err"
  refused "passthroughfs, $1" "$T/err" $?
  timeout 20 "$BIN/shortfuse" mount -o "$2" -- squashfuse_ll "$T/image.sqfs" "$T/mnt" >"$T/out" 2>"$T/err"
  refused "shortfuse mount, $1" "$T/err" $?
}
mksquashfs "$T/source" "$T/image.sqfs" -quiet -no-progress >/dev/null || fail "mksquashfs"

for name in truncated zeros empty text native machine loop absent; do
  note "$name"
  try "$name" "bpftime=$T/$name.bpf.o"
done
note "a good one before a bad one"
try "a chain" "bpftime=$good:$T/truncated.bpf.o"
note "what is not a file"
try "a directory" "bpftime=$T"
try "a pipe" "bpftime=$T/fifo.bpf.o"
try "a device" "bpftime=/dev/null"
note "options"
try "an empty path" "bpftime="
try "no value" "bpftime"
try "an empty path in the chain" "bpftime=$good:"
try "a misspelt option" "bpftime=$good,bpftime_memory=64M"
for size in 64X 12Q M -1 0 1K 99999999999G 18446744073709551617 64MM "" 1.5M; do
  try "bpftime_mem=$size" "bpftime=$good,bpftime_mem=$size"
done
try "bpftime_mem without a value" "bpftime=$good,bpftime_mem"
for share in none ALL 1 ""; do try "bpftime_share=$share" "bpftime=$good,bpftime_share=$share"; done
try "bpftime_mem alone" "bpftime_mem=64M"
try "bpftime_share alone" "bpftime_share=all"

note "as a user who may not read the policy"
if [ "$(id -u)" = 0 ]; then
  chown 65534:65534 "$T/mnt"
  setpriv --reuid 65534 --regid 65534 --clear-groups timeout 20 \
    "$BIN/passthroughfs" "$T/source" "$T/mnt" -o "bpftime=$T/unreadable.bpf.o" >"$T/out" 2>"$T/err"
  refused "an unreadable policy" "$T/err" $?
  chown 0:0 "$T/mnt"
fi

note "a mount point or a source that is not there"
timeout 20 "$BIN/passthroughfs" "$T/source" "$T/nowhere" -o "bpftime=$good" >"$T/out" 2>"$T/err"
status=$?
[ $status != 0 ] && no_hang_no_crash $status && [ -s "$T/err" ] || fail "a missing mount point: status $status"
timeout 20 "$BIN/passthroughfs" "$T/nowhere" "$T/mnt" -o "bpftime=$good" >"$T/out" 2>"$T/err"
refused "a missing source" "$T/err" $?
for daemon in /no/such/daemon "$T/text.bpf.o" "$T"; do
  timeout 20 "$BIN/shortfuse" mount -o "bpftime=$good" -- "$daemon" "$T/source" "$T/mnt" >"$T/out" 2>"$T/err"
  refused "shortfuse mount, daemon $daemon" "$T/err" $?
done

note "mutated objects: refused in one line or mounted, never a crash"
export SEED=${SHORTFUSE_TEST_SEED:-1}
for round in $(seq "$(soak && echo 1000 || echo 60)"); do
  python3 - "$good" "$T/mutated.bpf.o" "$round" <<'PY'
import os, random, sys
random.seed(int(os.environ["SEED"]) * 100000 + int(sys.argv[3]))
data = bytearray(open(sys.argv[1], "rb").read())
for _ in range(random.choice((1, 1, 2, 8))):
    data[random.randrange(len(data))] = random.randrange(256)
open(sys.argv[2], "wb").write(data)
PY
  timeout 20 "$BIN/passthroughfs" "$T/source" "$T/mnt" -o "bpftime=$T/mutated.bpf.o" >"$T/out" 2>"$T/err"
  status=$?
  if [ $status = 0 ]; then
    [ "$(hooked cat "$T/mnt/f")" = text ] || fail "mutated object $round: wrong data"
    unmount "$T/mnt"
  else
    no_hang_no_crash $status && [ -s "$T/err" ] || fail "mutated object $round: status $status: $(cat "$T/err")"
    is_mounted "$T/mnt" && fail "mutated object $round: refused and mounted"
  fi
done
note "done"
