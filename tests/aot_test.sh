#!/usr/bin/env bash
# A policy compiled ahead of time, on a machine without LLVM: in a mount namespace of this test's own, where neither
# libshortfuse-jit.so nor LLVM can be read. Its machine code is what runs, in the daemon and in the application.
if [ -z "${SF_OWN_NAMESPACE:-}" ]; then
  [ "$(id -u)" = 0 ] || { echo "a mount namespace needs root" >&2; exit 1; }
  SF_OWN_NAMESPACE=1 exec unshare --mount --propagation private bash "$0"
fi
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$T/source" "$T/mnt" "$T/empty"
echo text >"$T/source/f"
"$BIN/shortfuse" policy aot "$POLICIES/datacache.bpf.o" -o "$T/datacache.sfi" >"$T/out" || fail "aot: $(cat "$T/out")"

[ -d /usr/lib/llvm-19 ] && { mount --bind "$T/empty" /usr/lib/llvm-19 || fail "hiding LLVM"; }
hidden=0
for library in "$SF_BUILD"/lib/libshortfuse-jit.so* /usr/lib/*-linux-gnu/libLLVM*.so* /usr/local/lib/libLLVM*.so*; do
  [ -f "$library" ] || continue
  mount --bind /dev/null "$(readlink -f "$library")" || fail "hiding $library"
  hidden=$((hidden + 1))
done
[ "$hidden" -gt 0 ] || fail "there was no compiler to hide"

engine() { "$BIN/shortfuse" status "$T/mnt" --json |
  python3 -c 'import json,sys; p=json.load(sys.stdin)["policy"]; print(p["image"], p["why_interpreted"])'; }

# On a machine under load a daemon may not answer at once.
runs_as() { [[ $(engine 2>/dev/null) == $1 ]]; }

note "an object is interpreted here"
passthrough "$T/source" "$T/mnt"
eventually 10 runs_as 'interpreted*' || fail "an object without a compiler: $(engine)"
unmount "$T/mnt"

note "the compiled policy runs as machine code"
passthrough "$T/source" "$T/mnt" "bpftime=$T/datacache.sfi"
eventually 10 runs_as 'native ' || fail "not machine code: $(engine)"
grep -E 'libLLVM|libshortfuse-jit' "/proc/$(daemon_of "$T/mnt")/maps" && fail "the daemon has a compiler"
same "cat" cat "$T/mnt/f"
hooked bash -c '[ -e "$1" ] && [ -e "$1" ] && while read -r line; do echo "$line"; done </proc/self/maps' - "$T/mnt/f" \
  >"$T/out" || fail "the application's mappings"
grep -qE 'r-x[ps] .*shortfuse-image' "$T/out" || fail "no machine code in the application: $(grep shortfuse "$T/out")"
unmount "$T/mnt"

# The same bytecode with other machine code: functions that all answer -EACCES. That is what happens then.
note "it is the machine code that runs"
python3 - "$T/datacache.sfi" "$T/denies.sfi" <<'PY' || fail "changing the machine code"
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
(code_bytes,) = struct.unpack_from("<I", data, 48)
denies = bytes.fromhex("b8f3ffffff c3") + b"\x90" * 10  # mov $-13, %eax; ret: functions begin at multiples of 16
data[-code_bytes:] = (denies * (code_bytes // 16 + 1))[:code_bytes]
checksum = 0xcbf29ce484222325
for byte in data[72:]:
    checksum = (checksum ^ byte) * 0x100000001b3 % 2**64
struct.pack_into("<Q", data, 24, checksum)
open(sys.argv[2], "wb").write(data)
PY
passthrough "$T/source" "$T/mnt" "bpftime=$T/denies.sfi"
eventually 10 runs_as 'native ' || fail "not machine code: $(engine)"
cat "$T/mnt/f" 2>"$T/err" && fail "the bytecode ran"
grep -q 'Permission denied' "$T/err" || fail "another error: $(cat "$T/err")"
unmount "$T/mnt"

note "why machine code is not used is said: in the log and by policy check"
# A daemon in the foreground keeps its standard error.
"$BIN/passthroughfs" -f "$T/source" "$T/mnt" -o "bpftime=$POLICIES/datacache.bpf.o:$T/datacache.sfi" 2>"$T/log" &
OWN_PROCESSES+=($!)
eventually 10 is_mounted "$T/mnt" || fail "no mount: $(cat "$T/log")"
eventually 5 grep -q 'datacache.sfi: its machine code is not used' "$T/log" || fail "the log: $(cat "$T/log")"
unmount "$T/mnt"
"$BIN/shortfuse" policy check "$POLICIES/datacache.bpf.o:$T/datacache.sfi" >"$T/out" ||
  fail "policy check: $(cat "$T/out")"
grep -q 'its machine code is not used' "$T/out" || fail "policy check: $(cat "$T/out")"
