#!/usr/bin/env bash
# ctest-timeout: 1200
# Opens served from the cache cannot be told from the kernel's: what programs see of such descriptors (opens/cases.py)
# is what they see without the hook, on the same mount; and SHORTFUSE_OPEN=kernel serves none.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export PYTHONDONTWRITEBYTECODE=1

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
storm() {  # NAME [HOW THE READERS READ]
  note "$1: storm"
  local read=${2:-read}
  local run=$((++runs)) changer victim
  mkdir "$T/mnt/$run"
  python3 "$SF_SOURCE/tests/opens/storm.py" make "$T/mnt/$run" || fail "make"
  python3 "$SF_SOURCE/tests/opens/storm.py" change "$T/mnt/$run" "$seconds" "$run" &
  changer=$!
  LD_PRELOAD=$HOOK python3 "$SF_SOURCE/tests/opens/storm.py" "$read" "$T/mnt/$run" 100 7 >"$T/victim" 2>&1 &
  victim=$!
  OWN_PROCESSES+=("$changer" "$victim")
  rm -f "$REPORT"
  hooked timeout 300 python3 "$SF_SOURCE/tests/opens/storm.py" "$read" "$T/mnt/$run" "$seconds" "$run" ||
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

# What is asked of a file before it is read gets the same answer each time; once it is known, nobody else is asked.
ask() {
  python3 "$SF_SOURCE/tests/opens/asked.py" "$1" "$2" >"$T/without" || fail "could not ask"
  rm -f "$REPORT"
  hooked timeout 120 python3 "$SF_SOURCE/tests/opens/asked.py" "$1" "$2" >"$T/with" 2>&1 </dev/null
  diff "$T/without" "$T/with" >"$T/diff" || fail "$1 differs: $(head -n 20 "$T/diff")"
}
asked() {
  note "$1: what is asked of a file before it is read"
  local dir=$T/mnt/$((++runs)) change try
  mkdir "$dir"
  python3 "$SF_SOURCE/tests/opens/asked.py" make "$dir"
  for change in no yes; do
    [ $change = no ] || python3 "$SF_SOURCE/tests/opens/asked.py" change "$dir"
    ask ask "$dir"
    for try in {1..20}; do
      ask ask_again "$dir"
      [ "$(served open)" -lt 80 ] || break
    done
    # An open that has to be made real after all costs those that follow it.
    [ "$(served open)" -ge 80 ] || fail "$1: not all files are known, $(served open) opens served"
  done
}

# A daemon can be killed while the opens that are made through its own mount, for applications, wait for it: its file
# system waits for another one, which is stopped. held TEXT TIMEOUT CALL
stopped() { ! grep -qvE '^[0-9]+ \(.*\) T ' /proc/"$1"/task/*/stat; }
held() {
  note "$1 is on its way when the daemon is killed"
  local inner outer client
  rm -rf "$T/note".* "$REPORT"
  mkdir -p "$T/inner"
  "$BIN/passthroughfs" -f "$T/source" "$T/inner" &
  inner=$!
  OWN_PROCESSES+=("$inner")
  eventually 30 is_mounted "$T/inner" || fail "passthroughfs did not mount $T/inner"
  "$BIN/passthroughfs" -f "$T/inner" "$T/mnt" \
    -o "bpftime=$POLICIES/datacache.bpf.o,attr_timeout=$2,entry_timeout=$2" &
  outer=$!
  OWN_PROCESSES+=("$outer")
  eventually 30 is_mounted "$T/mnt" || fail "passthroughfs did not mount $T/mnt"
  head -c 20000 /dev/zero >"$T/mnt/held"
  hooked timeout -s KILL 120 python3 "$SF_SOURCE/tests/opens/held.py" "$T/mnt" held "$T/note" >"$T/held" 2>&1 \
    </dev/null &
  client=$!
  eventually 60 [ -e "$T/note.ready" ] || fail "$1: $(cat "$T/held")"
  kill -STOP "$inner"
  eventually 30 stopped "$inner" || fail "$1: the file system below cannot be stopped"
  if [ "$3" = later ]; then rm "$T/mnt/held" 2>/dev/null & else touch "$T/note.go"; fi
  sleep 1
  kill -9 "$outer"
  kill -9 "$inner"  # for whatever the file system itself still waits for
  if ! eventually 30 bash -c "! kill -0 $outer 2>/dev/null"; then
    umount -fl "$T/mnt"
    fail "$1: the daemon cannot be killed"
  fi
  eventually 30 bash -c "! pgrep -f '^shortfuse-opener .* $T/mnt\$'" >/dev/null || fail "$1: the opener outlives it"
  touch "$T/note.go"
  wait "$client"
  # A request that is under way at that moment ends with ECONNABORTED, as the kernel has it.
  sed -i '1s/ECONNABORTED/ENOTCONN/' "$T/held"
  diff "$T/held" <(printf 'ENOTCONN\nENOTCONN\n') >"$T/diff" || fail "$1: $(cat "$T/diff")"
  [ "$(served open)" -gt 0 ] || fail "$1: no open was served"
  detach_below "$T"
  wait
}

# The process that opens for a daemon is killed. Opens go on; what it had kept of removed files is lost.
opener_of() { "$BIN/shortfuse" status "$1" --json |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["mount"]["opener_pid"] or "")'; }
has_opener() { [ -n "$(opener_of "$1")" ]; }
lost() {
  local client
  passthrough "$T/source" "$T/mnt"
  rm -f "$T/note".* "$REPORT"
  for name in a b c; do echo "of $name" >"$T/mnt/$name"; done
  hooked timeout -s KILL 120 python3 "$SF_SOURCE/tests/opens/lost.py" "$T/mnt" "$T/note" >"$T/lost" 2>&1 </dev/null &
  client=$!
  eventually 60 [ -e "$T/note.ready.1" ] || fail "opener: $(cat "$T/lost")"
  kill -9 "$(opener_of "$T/mnt")"
  eventually 30 has_opener "$T/mnt" || fail "no other opener is started"
  touch "$T/note.go.1"
  eventually 60 [ -e "$T/note.ready.2" ] || fail "opener: $(cat "$T/lost")"
  rm "$T/mnt/b"
  kill -9 "$(opener_of "$T/mnt")"
  touch "$T/note.go.2"
  eventually 60 [ -e "$T/note.ready.3" ] || fail "opener: $(cat "$T/lost")"
  eventually 30 has_opener "$T/mnt" || fail "no other opener is started"
  rm "$T/mnt/c"
  touch "$T/note.go.3"
  wait "$client" || fail "opener: status $?: $(cat "$T/lost")"
  unmount "$T/mnt"
}
lost_in_time() {  # an open that the kernel made, because nobody was there to look after it, loses nothing
  lost
  grep -qx '2 ESTALE' "$T/lost"
}
note "the process that opens is killed"
eventually 120 lost_in_time || fail "no open was served: $(cat "$T/lost")"
printf "%s\n" "1 None" "1 b'of a\\n'" "2 ESTALE" "2 ESTALE" "3 None" "3 b'of c\\n'" >"$T/expected"
diff "$T/expected" "$T/lost" || fail "opens after the opener was killed"
held "the name that a descriptor is asked for by" 0 flock
held "a descriptor that is asked for" 3600 flock
held "a file that is kept before its removal" 3600 later
for call in flock fork fsync poll seteuid; do gone "$call"; done
passthrough "$T/source" "$T/mnt"
compare "passthroughfs"
[ "$(served open)" -gt 50 ] || fail "hardly an open was served: $(served open)"
storm "passthroughfs"
asked "passthroughfs"
note "a program that may be confined"
rm -f "$REPORT"
mkdir "$T/mnt/confined"
hooked timeout 120 setpriv --no-new-privs python3 "$cases" "$T/mnt/confined" dup >"$T/with" 2>&1 </dev/null ||
  fail "confined: $(tail -n 3 "$T/with")"
[ "$(served read)" -gt 0 ] || fail "a confined program was served nothing"
[ "$(served open)" = 0 ] || fail "a confined program was served opens that the kernel was to decide"
note "all numbers are used up"
# Who meets a busy daemon lets it be for a second or more: then it is said again, and has to be right again.
exhaust() {  # AT-LEAST-SERVED HOW EXPECTED
  local try dir
  for try in {1..20}; do
    [ "$try" = 1 ] || sleep 1.5
    dir=$T/mnt/exhausted$((++runs))
    rm -f "$REPORT"
    mkdir "$dir"
    hooked timeout 120 prlimit --nofile=300:300 python3 "$SF_SOURCE/tests/opens/exhausted.py" "$dir" $2 >"$T/with" \
      2>&1 </dev/null
    diff "$T/with" <(printf "$3\n") >"$T/diff" || fail "used up $2: $(head -n 20 "$T/diff")"
    [ "$(served open)" -le "$1" ] || return 0
  done
  fail "hardly an open was served: $(served open)"
}
exhaust 100 '' 'EMFILE True\n0 wrong'
exhaust 10 duplicates 'ENOENT ENOENT ENOENT ENOENT ENOENT EMFILE EMFILE ENOENT there'
export SHORTFUSE_OPEN=kernel
compare "passthroughfs, opens by the kernel"
[ "$(served open)" = 0 ] || fail "opens were served"
export SHORTFUSE_OPEN=cache  # as when nothing is said
compare "passthroughfs, said aloud"
[ "$(served open)" -gt 50 ] || fail "hardly an open was served: $(served open)"
unset SHORTFUSE_OPEN
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
storm "sshfs" read_what_gets_lost
asked "sshfs"
unmount "$T/mnt"
note "done"
