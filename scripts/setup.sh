#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, and says which. Does nothing, quickly, when
# all are there. One clear error where it cannot: no Debian, no rights, no network. With --compat also the programs that
# `make compat` runs.
set -euo pipefail

build=(
  cmake ninja-build g++ pkg-config binutils
  clang-19 llvm-19-dev                     # policies to BPF; BPF to machine code
  libzstd-dev                              # what LLVM's archives are linked with
  libclang-rt-19-dev                       # libFuzzer
  libfuse3-dev fuse3                       # what daemons are made of; fusermount3
  libbpf-dev libelf-dev zlib1g-dev         # reading policy objects
  libzydis-dev                             # finding the system calls in libc
  libcli11-dev libfmt-dev nlohmann-json3-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
run=(
  squashfuse squashfs-tools sshfs openssh-sftp-server fuse-overlayfs   # daemons that know nothing of shortfuse
  attr acl git rsync sqlite3 tar gcc python3       # programs whose output must not change
  strace                                           # what shortfuse trace counts is counted again by it
  libjemalloc2                                     # an allocator that makes calls of its own, for programs to preload
  gdb linux-perf                                   # they unwind through the hook
  fio                                              # the bench
)

compat=(
  postgresql sqlite3 git cmake make vim busybox perl rsync fio stress-ng imagemagick
  nodejs default-jdk-headless golang-go rustc libpython3.11-testsuite libjemalloc2
)
case ${1:-} in
  '') ;;
  --compat) run+=("${compat[@]}") ;;
  *) echo "usage: setup.sh [--compat]" >&2; exit 2 ;;
esac

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' 2>/dev/null | awk '$1 == "ii" {print $2}')
  for package in "${build[@]}" "${run[@]}"; do
    grep -qxF -- "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  fail "this is not Debian. Install what these Debian 12 packages hold: ${build[*]} ${run[*]};
then run: cmake --preset release && cmake --build --preset release"

mapfile -t missing < <(missing_packages)
[ ${#missing[@]} -eq 0 ] && exit 0

echo "setup: installing ${#missing[@]} Debian packages: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=(sudo)
  else
    fail "that needs root. Run this once as root: apt-get install -y --no-install-recommends ${missing[*]}"
  fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1; }
install() { apt install -y --no-install-recommends "${missing[@]}"; }

# The package lists may be old or absent; fetch them only when the first try fails.
if ! install; then
  # One of several archives may be down; what counts is whether the packages can be had.
  apt update || echo "setup: not every package archive could be reached" >&2
  install || fail "apt-get could not install them (no network, or not Debian 12?). Its last words:
$(grep -E '^(E|W|Err)' "$log" | sort -u | tail -n 5)"
fi

mapfile -t missing < <(missing_packages)
[ ${#missing[@]} -eq 0 ] || fail "still missing after the installation: ${missing[*]}"
echo "setup: done"
