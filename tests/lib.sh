# What every script here begins with: a private directory $T, mounts and processes that go with it, and running a
# program with and without the hook.
#
#   passthrough SRC MNT [OPTIONS]     mounts passthroughfs (datacache unless OPTIONS name a bpftime)
#   accelerated DAEMON...             shortfuse mount with datacache
#   hooked CMD...                     runs with the hook; what it says goes to $REPORT
#   same NAME CMD...                  CMD without the hook, then at least twice with it, until something (of the
#                                    operation $serving) was served: same output, same status each time
#   make_ssh_stand_in                 $T/ssh, for sshfs: starts the SFTP server itself
#   fail TEXT                         ends the test
set -u -o pipefail
shopt -s inherit_errexit

SF_BUILD=${SF_BUILD:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build}
SF_SOURCE=${SF_SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}
BIN=$SF_BUILD/bin
HOOK=$SF_BUILD/lib/libshortfuse.so
POLICIES=$SF_BUILD/policies
export LC_ALL=C
unset LD_PRELOAD SHORTFUSE_REPORT SHORTFUSE_DISABLE

if [ ! -e /dev/fuse ]; then
  echo "no /dev/fuse on this machine: nothing can be mounted" >&2
  exit 77
fi
for needed in "$BIN/passthroughfs" "$BIN/shortfuse" "$HOOK"; do
  [ -e "$needed" ] || { echo "not built: $needed" >&2; exit 1; }
done

# The same names as the test programs use, so that either sweeps away what a killed test left.
T=/tmp/sf-test.$$.sh
mkdir -m 755 "$T" || exit 1
REPORT=$T/report

mounts_below() {  # innermost first
  awk -v under="$1" '{ p = $5; gsub(/\\040/, " ", p); if (p == under || index(p, under "/") == 1) print p }' \
    /proc/self/mountinfo | tac
}
detach_below() {
  mounts_below "$1" | while IFS= read -r point; do
    umount -l "$point" 2>/dev/null || fusermount3 -uz "$point"
  done
}
OWN_PROCESSES=()
cleanup() {
  trap - EXIT INT TERM HUP
  local pid
  for pid in "${OWN_PROCESSES[@]}"; do kill -9 "$pid" 2>/dev/null; done
  cd /
  detach_below "$T"
  rm -rf --one-file-system "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

fail() {
  echo "FAILED: $*" >&2
  exit 1
}
note() { echo "-- $*"; }
make_ssh_stand_in() {
  local candidate server=
  for candidate in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/openssh/sftp-server; do
    [ -x "$candidate" ] && server=$candidate
  done
  [ -n "$server" ] || fail "no sftp-server"
  printf '#!/bin/sh\nexec %s\n' "$server" >"$T/ssh"
  chmod +x "$T/ssh"
}
soak() { [ "${SHORTFUSE_SOAK:-0}" != 0 ]; }
is_mounted() { [ -n "$(mounts_below "$1" | grep -Fx -- "$1")" ]; }
eventually() {  # eventually SECONDS CMD...
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}
daemon_of() { "$BIN/shortfuse" status "$1" --json |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["mount"]["daemon_pid"])'; }

passthrough() {
  local source=$1 point=$2 options=${3:-}
  case $options in *bpftime=*) ;; *) options=bpftime=$POLICIES/datacache.bpf.o${options:+,$options} ;; esac
  "$BIN/passthroughfs" "$source" "$point" -o "$options" || fail "passthroughfs did not mount $point"
  is_mounted "$point" || fail "passthroughfs ended without an error but $point is not mounted"
}
accelerated() {
  "$BIN/shortfuse" mount -o "bpftime=$POLICIES/datacache.bpf.o" -- "$@" || fail "shortfuse mount -- $*: status $?"
}
unmount() { eventually 10 umount "$1" 2>/dev/null || fail "umount $1"; }

hooked() { LD_PRELOAD=$HOOK SHORTFUSE_REPORT=$REPORT "$@"; }

# What the reports of the last hooked commands say was served, in all or of one operation.
served() {
  python3 - "$REPORT" "${1:-}" <<'PY'
import json, sys
total = 0
for line in open(sys.argv[1]):
    if line.strip():
        for name, op in json.loads(line)["ops"].items():
            if sys.argv[2] in ("", name):
                total += op["served"]
print(total)
PY
}

# A process that meets a daemon too busy to answer at once is not attached, and a short one never will be: what is
# served is asked of so many runs as fit into this time.
PATIENCE_S=30

same() {
  local name=$1 status=0 pass end
  shift
  note "$name"
  timeout 120 "$@" >"$T/out.without" 2>"$T/err.without" </dev/null
  local expected=$?
  [ "$expected" -lt 124 ] || fail "$name: status $expected without the hook: $(tail -n 3 "$T/err.without")"
  [ -s "$T/out.without" ] || fail "$name printed nothing: it compares nothing"
  end=$((SECONDS + PATIENCE_S))
  for ((pass = 1; ; ++pass)); do
    [ "$pass" -le 2 ] || [ "$(served "${serving:-}")" = 0 ] || break
    [ "$pass" -le 2 ] || [ "$SECONDS" -lt "$end" ] ||
      fail "$name: nothing was served${serving:+ of $serving}: $(cat "$REPORT")"
    rm -f "$REPORT"
    hooked timeout 120 "$@" >"$T/out.hooked" 2>"$T/err.hooked" </dev/null
    status=$?
    [ "$status" = "$expected" ] ||
      fail "$name: status $status with the hook, $expected without: $(tail -n 3 "$T/err.hooked")"
    cmp "$T/out.without" "$T/out.hooked" ||
      fail "$name: another output with the hook: $(diff "$T/out.without" "$T/out.hooked" | head -n 20)"
    cmp "$T/err.without" "$T/err.hooked" ||
      fail "$name: other messages with the hook: $(diff "$T/err.without" "$T/err.hooked" | head -n 20)"
  done
}
