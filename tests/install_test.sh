#!/usr/bin/env bash
# Installed: mount(8) finds the file system by its type, a daemon goes to the background properly, and the command finds
# its libraries and policies where they were installed.
#
# mount(8) does not hand PATH to its helpers, so what is installed has to lie in /usr/local: in a mount namespace of
# this test's own, where a private prefix is mounted over it.
if [ -z "${SF_OWN_NAMESPACE:-}" ]; then
  [ "$(id -u)" = 0 ] || { echo "mount(8) needs root" >&2; exit 1; }
  SF_OWN_NAMESPACE=1 exec unshare --mount --propagation private bash "$0"
fi
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mount -t tmpfs tmpfs /var/cache || fail "mount tmpfs"
cmake --install "$SF_BUILD" --prefix "$T/prefix" >"$T/install.log" 2>&1 ||
  fail "cmake --install: $(tail -n 3 "$T/install.log")"
for file in bin/passthroughfs bin/shortfuse share/shortfuse/policies/datacache.bpf.o; do
  [ -e "$T/prefix/$file" ] || fail "$file was not installed"
done
installed_hook=$(find "$T/prefix" -name libshortfuse.so)
[ -n "$installed_hook" ] || fail "libshortfuse.so was not installed"
mount --bind "$T/prefix" /usr/local || fail "mount --bind"
HOOK=/usr/local${installed_hook#"$T/prefix"}
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
mkdir "$T/source" "$T/mnt"
echo text >"$T/source/f"
policy=/usr/local/share/shortfuse/policies/datacache.bpf.o

note "places of system calls: remembered by root, for everybody; not believed where others may write"
places=/var/cache/shortfuse
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
remembered() {  # modules whose places the process did not search for
  "$@" env -i "LD_PRELOAD=$HOOK" /usr/bin/python3 -c '
import ctypes
class State(ctypes.Structure):
    _fields_ = [("format", ctypes.c_uint32), ("active", ctypes.c_uint32), ("reason", ctypes.c_char_p),
                ("windows", ctypes.c_uint32), ("sites", ctypes.c_uint32), ("unpatchable", ctypes.c_uint32),
                ("from_cache", ctypes.c_uint32)]
ask = ctypes.CDLL(None).shortfuse_hook_state
ask.restype = ctypes.POINTER(State)
state = ask().contents
print(state.from_cache if state.active else "inert: %s" % state.reason)'
}
[ "$(stat -c '%F %u %g %a' "$places")" = "directory 0 0 755" ] || fail "$places: $(stat "$places" 2>&1)"
[ "$(remembered "${nobody[@]}")" = 0 ] || fail "remembered before anybody was there"
[ -z "$(ls "$places")" ] || fail "a user's process has written to $places"
[ "$(remembered env)" = 0 ] || fail "root finds what nobody has left"
[ "$(stat -c '%u %a' "$places"/sites-* | sort | uniq -c | tr -s ' ')" = " 2 0 644" ] || fail "$(ls -l "$places")"
[ "$(remembered "${nobody[@]}")" = 2 ] || fail "a user's process does not find root's"
[ "$(remembered env)" = 2 ] || fail "root does not find its own"
chmod 0777 "$places"
[ "$(remembered "${nobody[@]}")$(remembered env)" = 00 ] || fail "a directory that everybody may write to is believed"
chmod 0755 "$places"
chown 65534 "$places"
[ "$(remembered env)" = 0 ] || fail "somebody else's directory is believed by root"
chown 0 "$places"
chown 65534 "$places"/sites-*
[ "$(remembered env)" = 0 ] || fail "somebody else's files are believed by root"
[ "$(remembered env)" = 2 ] || fail "root does not replace them"
DESTDIR="$T/stage" cmake --install "$SF_BUILD" --prefix /usr >"$T/stage.log" 2>&1 || fail "$(tail -n 3 "$T/stage.log")"
[ "$(stat -c %a "$T/stage$places")" = 755 ] || fail "no $places in what was staged"

note "mount -t fuse.passthroughfs"
mount -t fuse.passthroughfs "$T/source" "$T/mnt" -o "bpftime=$policy,allow_other" || fail "mount(8): status $?"
is_mounted "$T/mnt" || fail "mount(8) did not mount"
awk -v p="$T/mnt" '$5 == p' /proc/self/mountinfo | grep -q ' fuse.passthroughfs ' ||
  fail "another type: $(grep "$T/mnt" /proc/self/mountinfo)"
pid=$(shortfuse status "$T/mnt" --json |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["mount"]["daemon_pid"])')
[ "$(readlink "/proc/$pid/exe")" = /usr/local/bin/passthroughfs ] || fail "the daemon is $(readlink "/proc/$pid/exe")"
same "cat" cat "$T/mnt/f"
same "ls" ls -l --time-style=full-iso "$T/mnt"
opener() { shortfuse status "$T/mnt" --json |
  python3 -c 'import json,sys,os; print(os.readlink("/proc/%d/exe" % json.load(sys.stdin)["mount"]["opener_pid"]))'; }
[ "$(opener)" = /usr/local/libexec/shortfuse/shortfuse-opener ] || fail "what opens for the daemon: $(opener)"
umount "$T/mnt" || fail "umount"
eventually 10 bash -c "! kill -0 $pid 2>/dev/null" || fail "the daemon outlived its mount"

note "from fstab's fields, by mount.fuse3 itself"
mount.fuse3 "passthroughfs#$T/source" "$T/mnt" -o "bpftime=$policy" || fail "mount.fuse3"
[ "$(cat "$T/mnt/f")" = text ] || fail "mount.fuse3: contents"
umount "$T/mnt" || fail "umount"

note "the installed command: mount, run, swap, status"
mksquashfs "$T/source" "$T/image.sqfs" -quiet -no-progress >/dev/null || fail "mksquashfs"
shortfuse mount -o bpftime=metacache.bpf.o -- squashfuse_ll "$T/image.sqfs" "$T/mnt" || fail "shortfuse mount"
shortfuse swap "$T/mnt" "$policy" >"$T/out" || fail "shortfuse swap: $(cat "$T/out")"
for _ in 1 2 3; do
  [ "$(shortfuse run -- cat "$T/mnt/f")" = text ] || fail "shortfuse run: contents"
done
shortfuse status "$T/mnt" | grep -q datacache || fail "shortfuse status does not name the policy"
umount "$T/mnt" || fail "umount"

note "in the background: no terminal, no descriptors, no working directory of the caller's kept"
cd "$T/source" || fail "cd"
said=$(timeout 20 passthroughfs . "$T/mnt" -o "bpftime=$policy" 2>&1) ||
  fail "passthroughfs: $said"  # ends only when all writers of the pipe are gone
[ -z "$said" ] || fail "passthroughfs says without being asked: $said"
pid=$(shortfuse status "$T/mnt" --json |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["mount"]["daemon_pid"])')
[ "$(readlink "/proc/$pid/cwd")" = / ] || fail "the daemon stays in $(readlink "/proc/$pid/cwd")"
[ "$(ps -o sid= -p "$pid" | tr -d ' ')" != "$(ps -o sid= -p $$ | tr -d ' ')" ] || fail "the daemon is in our session"
for fd in 0 1 2; do
  [ "$(readlink "/proc/$pid/fd/$fd")" = /dev/null ] ||
    fail "descriptor $fd of the daemon is $(readlink "/proc/$pid/fd/$fd")"
done
[ "$(cat "$T/mnt/f")" = text ] || fail "contents"
cd /
unmount "$T/mnt"

note "ended by a signal, it unmounts"
passthroughfs "$T/source" "$T/mnt" -o "bpftime=$policy" || fail "passthroughfs"
pid=$(shortfuse status "$T/mnt" --json |
  python3 -c 'import json,sys; print(json.load(sys.stdin)["mount"]["daemon_pid"])')
kill -TERM "$pid"
eventually 10 bash -c "! kill -0 $pid 2>/dev/null" || fail "SIGTERM does not end the daemon"
is_mounted "$T/mnt" && fail "still mounted after SIGTERM"
note "done"
