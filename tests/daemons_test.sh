#!/usr/bin/env bash
# Daemons that nobody changed, under `shortfuse mount`: programs read the same with the hook as without, and are served.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$T/source" "$T/mnt"
cp -a /usr/include/linux "$T/source/tree"
ln -s tree/types.h "$T/source/link"

read_programs() {
  local on=$1
  cd "$T/mnt" || fail "cd into $on"
  same "$on: find" find . -printf '%p %s %m %y %l %u %T@\n'
  same "$on: ls -lR" ls -lRA --time-style=full-iso .
  same "$on: tar" bash -c 'tar cf - --exclude=.wh* . | sha256sum'
  serving=read same "$on: grep -r" grep -rn include tree
  same "$on: contents" bash -c 'diff -r . "$0" && echo equal' "$T/source"
  grep -q equal "$T/out.hooked" || fail "$on shows other files than its source"
  cd /
}

# The daemon goes to the background by itself; `umount` ends it.
check_daemon() {
  local on=$1
  shift
  accelerated "$@"
  is_mounted "$T/mnt" || fail "$on: not mounted"
  local pid
  pid=$(daemon_of "$T/mnt") || fail "$on: no status"
  read_programs "$on"
  unmount "$T/mnt"
  eventually 10 bash -c "! kill -0 $pid 2>/dev/null" || fail "$on: the daemon is still there after umount"
}

mksquashfs "$T/source" "$T/image.sqfs" -quiet -no-progress >/dev/null || fail "mksquashfs"
check_daemon squashfuse_ll squashfuse_ll "$T/image.sqfs" "$T/mnt"
check_daemon squashfuse squashfuse "$T/image.sqfs" "$T/mnt"

mkdir "$T/lower" "$T/upper" "$T/work"
cp -a "$T/source/tree" "$T/lower/tree"
cp -a "$T/source/link" "$T/upper/link"
check_daemon fuse-overlayfs fuse-overlayfs -o "lowerdir=$T/lower,upperdir=$T/upper,workdir=$T/work" "$T/mnt"

# sshfs with the SFTP server at the other end of a socket pair: what it would start as ssh starts the server itself.
make_ssh_stand_in
check_daemon sshfs sshfs -o "ssh_command=$T/ssh" "host:$T/source" "$T/mnt"

note "sshfs: one file under two names, each of which says that it is the only one"
accelerated sshfs -o "ssh_command=$T/ssh" "host:$T/source" "$T/mnt"
cd "$T/mnt" || fail "cd"
echo "round 00" >one
ln one two || fail "ln"
for round in 10 11 12; do
  end=$((SECONDS + PATIENCE_S))
  rm -f "$REPORT"
  until hooked cat two >/dev/null && grep -q '"bytes_served":9,' "$REPORT"; do
    [ "$SECONDS" -lt "$end" ] || fail "two is never served"
    sleep 0.1
  done
  echo "round $round" >one
  [ "$(hooked cat two)" = "round $round" ] || fail "an old state of the other name in round $round"
done
cd /
unmount "$T/mnt"

note "a daemon that writes: fuse-overlayfs, changed by the hooked and by the others"
accelerated fuse-overlayfs -o "lowerdir=$T/lower,upperdir=$T/upper,workdir=$T/work" "$T/mnt"
cd "$T/mnt" || fail "cd"
for round in $(seq 100); do
  echo "round $round" >tree/types.h
  [ "$(hooked cat tree/types.h)" = "round $round" ] || fail "an old state of tree/types.h in round $round"
  hooked bash -c "echo hooked $round >new; mv new renamed"
  [ "$(cat renamed)" = "hooked $round" ] || fail "an old state of renamed in round $round"
  [ -e new ] && fail "new is still there"
done
cd /
unmount "$T/mnt"
note "done"
