#!/usr/bin/env bash
# ctest-timeout: 1200
# Opens served from the cache cannot be told from the kernel's: what programs see of such descriptors (opens/cases.py)
# is what they see without the hook, on the same mount; and none are served where nobody asked for it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export PYTHONDONTWRITEBYTECODE=1 SHORTFUSE_OPEN=cache

mkdir "$T/source" "$T/mnt"
cases=$SF_SOURCE/tests/opens/cases.py

runs=0
compare() {
  note "$1"
  local run=$((++runs))
  rm -f "$REPORT"
  mkdir "$T/mnt/$run" "$T/mnt/$run/without" "$T/mnt/$run/with"
  timeout 120 python3 "$cases" "$T/mnt/$run/without" >"$T/without" 2>&1 </dev/null ||
    fail "$1, without: $(tail -n 3 "$T/without")"
  hooked timeout 120 python3 "$cases" "$T/mnt/$run/with" >"$T/with" 2>&1 </dev/null ||
    fail "$1, with: $(tail -n 3 "$T/with")"
  diff "$T/without" "$T/with" >"$T/diff" || fail "$1: $(head -n 40 "$T/diff")"
}

# Threads, forks and execs, while somebody without the hook replaces and removes the files; one more is killed.
seconds=4
soak && seconds=60
storm() {
  note "$1: storm"
  local run=$((++runs)) changer victim
  mkdir "$T/mnt/$run"
  python3 "$SF_SOURCE/tests/opens/storm.py" make "$T/mnt/$run" || fail "make"
  python3 "$SF_SOURCE/tests/opens/storm.py" change "$T/mnt/$run" "$seconds" "$run" &
  changer=$!
  LD_PRELOAD=$HOOK python3 "$SF_SOURCE/tests/opens/storm.py" read "$T/mnt/$run" 100 7 >"$T/victim" 2>&1 &
  victim=$!
  OWN_PROCESSES+=("$changer" "$victim")
  rm -f "$REPORT"
  hooked timeout 300 python3 "$SF_SOURCE/tests/opens/storm.py" read "$T/mnt/$run" "$seconds" "$run" ||
    fail "$1: wrong in the storm"
  kill -9 "$victim"
  wait "$victim" 2>/dev/null
  wait "$changer" || fail "the changer"
  [ "$(served open)" -gt 0 ] || fail "$1: no open was served in the storm"
  [ ! -s "$T/victim" ] || fail "$1: $(cat "$T/victim")"
}

# Nobody waits for a daemon that is no more.
gone() {
  note "$1, when the daemon is killed"
  local way
  for way in without with; do
    passthrough "$T/source" "$T/mnt"
    head -c 20000 /dev/zero >"$T/mnt/a"
    local run=()
    [ "$way" = without ] || run=(hooked)
    rm -f "$REPORT"
    "${run[@]}" timeout -s KILL 60 python3 "$SF_SOURCE/tests/opens/gone.py" "$T/mnt" "$(daemon_of "$T/mnt")" "$1" \
      >"$T/$way" 2>&1 </dev/null || fail "$1, $way: status $?: $(cat "$T/$way")"
    detach_below "$T"
  done
  diff "$T/without" "$T/with" >"$T/diff" || fail "$1: $(cat "$T/diff")"
  [ "$(served open)" -gt 0 ] || fail "$1: no open was served"
}

for call in flock fork fsync poll seteuid; do gone "$call"; done
passthrough "$T/source" "$T/mnt"
compare "passthroughfs"
[ "$(served open)" -gt 50 ] || fail "hardly an open was served: $(served open)"
storm "passthroughfs"
note "a program that may be confined"
rm -f "$REPORT"
mkdir "$T/mnt/confined"
hooked timeout 120 setpriv --no-new-privs python3 "$cases" "$T/mnt/confined" dup >"$T/with" 2>&1 </dev/null ||
  fail "confined: $(tail -n 3 "$T/with")"
[ "$(served read)" -gt 0 ] || fail "a confined program was served nothing"
[ "$(served open)" = 0 ] || fail "a confined program was served opens that the kernel was to decide"
note "all numbers are used up"
rm -f "$REPORT"
mkdir "$T/mnt/exhausted"
hooked timeout 120 prlimit --nofile=300:300 python3 "$SF_SOURCE/tests/opens/exhausted.py" "$T/mnt/exhausted" \
  >"$T/with" 2>&1 </dev/null
diff "$T/with" <(printf 'EMFILE True\n0 wrong\n') >"$T/diff" || fail "used up: $(head -n 20 "$T/diff")"
[ "$(served open)" -gt 100 ] || fail "hardly an open was served: $(served open)"
unset SHORTFUSE_OPEN
compare "passthroughfs, opens by the kernel"
[ "$(served open)" = 0 ] || fail "opens were served"
export SHORTFUSE_OPEN=kernel
compare "passthroughfs, said aloud"
[ "$(served open)" = 0 ] || fail "opens were served"
export SHORTFUSE_OPEN=cache
unmount "$T/mnt"

passthrough "$T/source" "$T/mnt" "bpftime=$POLICIES/datacache.bpf.o,bpftime_mem=4M"
note "what is known of them is evicted"
mkdir "$T/mnt/evicted"
rm -f "$REPORT"
hooked timeout 120 python3 "$SF_SOURCE/tests/opens/evicted.py" "$T/mnt/evicted" >"$T/evicted" 2>&1 </dev/null
diff "$T/evicted" <(echo "0 wrong") >"$T/diff" || fail "evicted: $(head -n 20 "$T/diff")"
[ "$(served open)" -gt 100 ] || fail "hardly an open was served: $(served open)"
rm -rf "$T/mnt/evicted"
unmount "$T/mnt"

passthrough "$T/source" "$T/mnt" nodefault_permissions
compare "permissions decided by the file system"
unmount "$T/mnt"

"$BIN/passthroughfs" -s "$T/source" "$T/mnt" -o "bpftime=$POLICIES/datacache.bpf.o" || fail "one thread"
compare "one thread"
[ "$(served open)" -gt 50 ] || fail "hardly an open was served: $(served open)"
storm "one thread"
unmount "$T/mnt"

# libfuse's high-level interface: a removed file that is open goes on under another name.
make_ssh_stand_in
accelerated sshfs -o "ssh_command=$T/ssh" "host:$T/source" "$T/mnt"
compare "sshfs"
[ "$(served open)" -gt 50 ] || fail "hardly an open was served: $(served open)"
storm "sshfs"
unmount "$T/mnt"
note "done"
