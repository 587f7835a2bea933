#!/usr/bin/env bash
# Real programs in an accelerated mount: each case once without the hook, once with it and the kernel's opens, and once
# with opens from the cache, in a fresh directory of the mount each time. Output, exit status and the files that are
# left must be the same, and hooked programs must see the files that are in the mount's source.
#
#   tests/compat/run.sh [CASE...]      all, or these; `make compat` installs what they need before
#
# A case is a script in cases/, run by bash with $out (its directory, also the current one), $project (a tree of
# thousands of files on the same mount) and $scratch (a directory outside). What it prints is compared. Comments at its
# top: `# as: USER` runs it as somebody else, `# keep: PATTERN` limits the files compared, `# seconds: N` its time,
# `# served: COMMAND...` names the programs of which calls must have been served, each (bash if there is none).

# Whatever a case leaves behind becomes a child of this process (PR_SET_CHILD_SUBREAPER), which ends it.
if [ -z "${SF_COMPAT_REAPER:-}" ]; then
  SF_COMPAT_REAPER=1 exec perl -e 'syscall(157, 36, 1, 0, 0, 0); exec @ARGV' bash "$0" "$@"
fi
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
unset SF_COMPAT_REAPER SHORTFUSE_OPEN SHORTFUSE_LOG XDG_CACHE_HOME
cases=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/cases

# Into `left`: who descends from process $1, the daemon and its opener aside. Nothing is executed meanwhile, which would
# be among them.
descendants() {
  local list pid children name
  for list in "/proc/$1"/task/*/children; do
    { read -ra children <"$list"; } 2>/dev/null
    for pid in "${children[@]}"; do
      [ "$pid" = "${daemon:-}" ] && continue
      { read -r name <"/proc/$pid/comm"; } 2>/dev/null && [ "$name" = shortfuse-open ] && continue
      left+=("$pid")
      descendants "$pid"
    done
  done
}
nobody_left() {
  left=()
  descendants $$
  [ ${#left[@]} -eq 0 ]
}
end_left() {
  local signal
  for signal in TERM KILL; do
    nobody_left && return
    kill "-$signal" "${left[@]}" 2>/dev/null
    eventually 5 nobody_left && return
  done
}
trap 'end_left; cleanup' EXIT

export HOME=$T/home  # with a place for what the hook remembers of programs
mkdir "$T/source" "$T/mnt" "$T/reports" "$HOME"
# cache=always: else the kernel can lose what SQLite writes in WAL mode, hook or no hook (ARCHITECTURE.md, "The
# kernel's own page cache").
passthrough "$T/source" "$T/mnt" "allow_other,bpftime_share=all,cache=always"
daemon=$(daemon_of "$T/mnt")
project=$T/mnt/project
mkdir "$project"
cp -a /usr/include/linux "$project/include"
cp -a /usr/include/c++ "$project/c++"
mkdir "$project/python"
tar cf - -C "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')" --exclude=__pycache__ --exclude=test \
  --exclude='*-packages' . | tar xf - -C "$project/python" || fail "no project"
sync -f "$T/source"  # ext4 settles the number of blocks when it writes
note "a project of $(find "$project" -type f | wc -l) files"

directive() { sed -nE "s/^# $2: *//p" "$1" | head -n 1; }

sums() { find . -type f -print0 | sort -z | xargs -0r sha256sum; }
kept() {
  local sum path
  while read -r sum path; do [[ $path != $1 ]] || echo "$sum $path"; done
}

run_case() {  # run_case FILE WAY [SETTING...]
  local user limit way=$2 command started
  user=$(directive "$1" as)
  limit=$(directive "$1" seconds)
  export out=$T/mnt/out project scratch=$T/scratch
  rm -rf "$out" "$scratch.$way" "$T/reports/$way"
  mkdir "$out" "$scratch" "$T/reports/$way"
  chmod 1777 "$T/reports/$way"
  # In the background, so that a signal to us need not wait; but not deaf to signals as what runs there is.
  command=(env --default-signal "${@:3}" timeout "${limit:-120}" bash "$1")
  if [ -n "$user" ]; then
    chown "$user" "$out" "$scratch"
    command=(setpriv "--reuid=$user" "--regid=$user" --init-groups "${command[@]}")
  fi
  started=${EPOCHREALTIME/./}
  (cd "$out" && exec "${command[@]}") >"$T/out.$way" 2>"$T/err.$way" </dev/null &
  wait $!
  echo "status $?" >>"$T/out.$way"
  took[$way]=$(printf '%d.%d' $(((${EPOCHREALTIME/./} - started) / 1000000)) \
    $(((${EPOCHREALTIME/./} - started) / 100000 % 10)))
  if ! eventually 5 nobody_left; then
    for pid in "${left[@]}"; do tr '\0' ' ' <"/proc/$pid/cmdline"; done >>"$T/out.$way" 2>/dev/null
    echo "left behind" >>"$T/out.$way"
    end_left
  fi
  mv "$scratch" "$scratch.$way"
  sync -f "$T/mnt"
  (cd "$T/source/out" && sums) >"$T/source.$way"
  (cd "$out" && { [ $# = 2 ] || export "${@:3}"; } && sums) >"$T/mount.$way"
  kept "${keep:-*}" <"$T/mount.$way" >"$T/files.$way"
}

# What the reports of a way say: calls served, opens among them, and the programs named of which none was.
reports_served() {  # reports_served WAY COMMAND...
  python3 - "$T/reports/$1" "${@:2}" <<'PY'
import collections, json, os, sys
served, opens = collections.Counter(), 0
for name in os.listdir(sys.argv[1]):
    for line in open(os.path.join(sys.argv[1], name)):
        report = json.loads(line)
        served[report["comm"]] += report["total"]["served"]
        opens += report["ops"]["open"]["served"]
print(served.total(), opens, *[name for name in sys.argv[2:] if served[name] == 0])
PY
}

failed=()
wrong() {
  echo "$name: $1" >&2
  failed+=("$name")
}

compare() {  # compare WAY
  local what
  for what in out err files; do
    cmp -s "$T/$what.without" "$T/$what.$1" && continue
    wrong "$what differs with the hook, opens by the $1:"
    diff "$T/$what.without" "$T/$what.$1" | head -n 20 >&2
  done
  cmp -s "$T/source.$1" "$T/mount.$1" && return
  wrong "the mount shows other files than its source with the hook, opens by the $1:"
  diff "$T/source.$1" "$T/mount.$1" | head -n 20 >&2
}

check_served() {  # check_served WAY
  local counted
  read -ra counted < <(reports_served "$1" $(directive "$file" served || echo bash))
  calls[$1]=${counted[0]} opens[$1]=${counted[1]}
  [ "${calls[$1]}" -gt 0 ] || wrong "nothing was served, opens by the $1"
  [ ${#counted[@]} -eq 2 ] || wrong "nothing was served to ${counted[*]:2}, opens by the $1"
}

table=()
line() { printf '%-12s %9s %9s %9s %9s %9s %9s  %s' "$@"; }
run_all_ways() {
  local -A took calls opens
  local way before=${#failed[@]}
  run_case "$file" without
  for way in kernel cache; do
    run_case "$file" "$way" "LD_PRELOAD=$HOOK" "SHORTFUSE_REPORT=$T/reports/$way/%p" "SHORTFUSE_OPEN=$way"
    compare "$way"
    check_served "$way"
  done
  [ "${opens[kernel]}" = 0 ] || wrong "opens were served that are the kernel's"
  grep -q '^status 0$' "$T/out.without" ||
    wrong "fails without the hook: $(tail -n 5 "$T/out.without" "$T/err.without")"
  if [ ${#failed[@]} != "$before" ]; then
    rm -rf "$SF_BUILD/compat/$name"
    mkdir -p "$SF_BUILD/compat/$name"
    cp -r "$T"/*.without "$T"/*.kernel "$T"/*.cache "$T/reports" "$SF_BUILD/compat/$name"
  fi
  table+=("$(line "$name" "${took[without]}" "${took[kernel]}" "${took[cache]}" "${calls[kernel]}" "${calls[cache]}" \
    "${opens[cache]}" "$([ ${#failed[@]} = "$before" ] && echo same || echo "DIFFERENT: $SF_BUILD/compat/$name")")")
  note "${table[-1]}"
}

names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(find "$cases" -name '*.sh' -printf '%f\n' | sed 's/\.sh$//' | sort)
heading=$(line case 'without s' 'kernel s' 'cache s' served served opens '')
note "$heading"
for name in "${names[@]}"; do
  file=$cases/$name.sh
  [ -e "$file" ] || fail "there is no case $name"
  keep=$(directive "$file" keep)
  run_all_ways
done
[ "$(daemon_of "$T/mnt")" = "$daemon" ] || fail "the daemon is another one"
rm -rf "$T/mnt/out"
unmount "$T/mnt"
printf '\n%s\n' "$heading"
printf '%s\n' "${table[@]}"
[ ${#failed[@]} = 0 ] || fail "not the same or not served: $(printf '%s\n' "${failed[@]}" | sort -u | tr '\n' ' ')"
note "${#names[@]} cases, the same without the hook, with it, and with opens from the cache:" \
  "$((SECONDS / 60)) min $((SECONDS % 60)) s"
