# its stressors of file systems, each with its own checks; not those that mount, or work on something else. Of a copy
# without the one stressor that makes system calls of its own, which would leave the whole program to the kernel.
# keep: ./none
# served: stress-ng-acces stress-ng-dir
# seconds: 500
cat >"$scratch/copy.py" <<'PY'
import re, subprocess, sys
program, copy = sys.argv[1:]
said = lambda *command: subprocess.run([*command, program], capture_output=True, text=True, check=True).stdout
code = bytearray(open(program, "rb").read())
calls = re.findall(r"^ *(\w+):\s+(?:0f 05 +\tsyscall|0f 34 +\tsysenter|cd 80 +\tint .*)", said("objdump", "-d"), re.M)
starts = re.findall(r"^ *LOAD +0x(\w+) 0x(\w+)", said("readelf", "-lW"), re.M)
for call in calls:
    offset, start = max((int(o, 16), int(a, 16)) for o, a in starts if int(a, 16) <= int(call, 16))
    at = offset + int(call, 16) - start
    code[at:at + 2] = b"\x0f\x0b"
at = code.find(bytes.fromhex(re.search(r"Build ID: (\w+)", said("readelf", "-n"))[1]))
code[at] ^= 1  # another program: what is known of the original is not known of it
open(copy, "wb").write(code)
PY
python3 "$scratch/copy.py" "$(command -v stress-ng)" "$scratch/stress-ng" && chmod +x "$scratch/stress-ng" || exit 1
for stressor in access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate \
    fanotify fcntl fiemap file-ioctl filename flock fpunch fsize fstat full getdent handle hdd inode-flags inotify \
    io iomix lease link locka lockf lockofd mknod mmapfork msync open readahead rename seek sendfile splice \
    symlink sync-file tee touch utime vm-splice xattr; do
  # As many directories as it opens by itself, 16,384, are too many descriptors for a daemon with a limit of 20,000.
  few=$([ $stressor = chdir ] && echo --chdir-dirs 1024)
  "$scratch/stress-ng" --$stressor 2 $few --timeout 1 --verify --temp-path . --no-rand-seed >"$scratch/log" 2>&1
  echo "$stressor $? $(grep -oE '(skipped|passed|failed): [0-9]+' "$scratch/log" | tr '\n' ' ')"
  cat "$scratch/log" >>"$scratch/all"
done
# What it has made immutable and did not make mutable again, when its second was over.
chattr -R -i -a . 2>/dev/null || true
