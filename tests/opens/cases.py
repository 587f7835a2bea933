"""What a program sees of descriptors, printed: run on the same directory with the hook and without, it must print the
same. Opens are os.open(), which makes no other call (open() asks whether it is a terminal). Every case begins with
opens of what has been read before, which the hook serves.

    cases.py DIRECTORY [CASE...]
"""
import array, ctypes, errno, fcntl, mmap, os, resource, select, signal, socket, subprocess, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
root = sys.argv[1]
RD = os.O_RDONLY


def say(*what):
    print(*what, flush=True)


def of(call, *args, **kw):
    """What it returns, or the name of its error."""
    try:
        return call(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno]


def text(seed, size):
    return bytes((seed * 7 + i * 31 + (i >> 8)) & 0xff for i in range(size))


def warm(*paths):
    for _ in range(3):
        for path in paths:
            fd = os.open(path, RD)
            if os.path.isdir(path):
                os.listdir(fd)
            else:
                while os.read(fd, 65536):
                    pass
            os.close(fd)
            os.stat(path)
        time.sleep(0.03)


def make(name):
    """A directory of its own: files a, b, c, directories d/e and d/f, all in the cache."""
    here = f"{root}/{name}"
    os.makedirs(here + "/d/e")
    os.makedirs(here + "/d/f")
    for i, file in enumerate(("a", "b", "c", "d/g")):
        fd = os.open(f"{here}/{file}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, text(i, 20000 + i))
        os.close(fd)
    warm(*(f"{here}/{p}" for p in ("a", "b", "c", "d/g", ".", "d", "d/e", "d/f")))
    return here


def names(fd):
    return sorted(os.listdir(fd))


def case_plain(d):
    fd = os.open(d + "/a", RD)
    say(fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD), os.get_inheritable(fd))
    say(os.fstat(fd) == os.stat(d + "/a"), os.fstatvfs(fd).f_namemax, of(os.write, fd, b"x"), of(os.ftruncate, fd, 0))
    say(os.read(fd, 5), os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, -3, os.SEEK_END), os.read(fd, 9), os.read(fd, 9))
    say(of(os.lseek, fd, 5, os.SEEK_DATA), of(os.lseek, fd, 5, os.SEEK_HOLE), of(os.lseek, fd, -1, os.SEEK_SET))
    say(of(os.lseek, fd, 0, 17), os.lseek(fd, 100, os.SEEK_SET), os.pread(fd, 4, 7), os.preadv(fd, [bytearray(3)], 1))
    say(os.readv(fd, [bytearray(3), bytearray(4)]), os.lseek(fd, 0, os.SEEK_CUR))
    say(of(os.listdir, fd), of(os.open, "x", RD, dir_fd=fd), of(os.fchdir, fd), of(os.fsync, fd), of(os.fdatasync, fd))
    os.close(fd)
    say(of(os.close, fd), of(os.read, fd, 1), of(os.fstat, fd), of(os.dup, fd))
    for flags in (os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NONBLOCK, os.O_CLOEXEC, os.O_PATH, os.O_DIRECT, os.O_NOATIME):
        for path in ("/a", "/d", "/none", "/a/x", "/a/", "/d/", ""):
            fd = of(os.open, d + path, RD | flags)
            say(flags, path, fd if isinstance(fd, str) else (fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd).st_size))
            if not isinstance(fd, str):
                os.close(fd)


def case_linked(d):
    """Files of several names, which come and go before and after they are opened by a relative one."""
    os.chdir(d)
    for first, last in (("a", "l"), ("b", "d/l"), ("c", "d/e/l")):
        for keep, take in ((first, last), (last, first)):
            os.link(keep, take)
            warm(keep, take)
            os.unlink(take)
            warm(keep)
            fds = [os.open(keep, RD) for _ in range(3)]
            say([of(fcntl.flock, fd, fcntl.LOCK_SH) for fd in fds], [os.read(fd, 4) for fd in fds])
            fd = os.open(keep, RD)
            os.link(keep, take)
            say(of(fcntl.flock, fd, fcntl.LOCK_SH), os.fstat(fd).st_nlink)
            for f in fds + [fd]:
                os.close(f)
            warm(take)
            fd, other = os.open(take, RD), os.open(take, RD)
            os.rename(take, "renamed")
            say(of(fcntl.flock, fd, fcntl.LOCK_SH))
            os.unlink("renamed")
            say(of(fcntl.flock, other, fcntl.LOCK_SH), os.read(other, 4))
            os.close(fd)
            os.close(other)


def case_deep(d):
    """Where no path leads that a call would take."""
    os.chdir(d)
    for level in range(24):
        os.mkdir("n" * 250)
        os.chdir("n" * 250)
    fd = os.open("a", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, text(9, 20000))
    os.close(fd)
    warm("a", ".")
    fds = [os.open("a", RD) for _ in range(3)]
    say([of(fcntl.flock, fd, fcntl.LOCK_SH) for fd in fds], [os.read(fd, 4) for fd in fds])
    fd = os.open(".", RD)
    say(of(os.fsync, fd), names(fd))
    fd = os.open("a", RD)
    os.unlink("a")
    say(of(fcntl.flock, fd, fcntl.LOCK_SH), os.fstat(fd).st_nlink, os.read(fd, 4))


def case_lowest(d):
    fds = [os.open(d + "/a", RD) for _ in range(5)]
    os.close(fds[1])
    os.close(fds[3])
    say(os.open(d + "/b", RD) == fds[1], os.open(d, RD) == fds[3], [os.fstat(f).st_size > 4096 for f in fds])
    os.dup2(fds[0], 99)
    os.close(fds[0])
    say(os.read(99, 3), os.open(d + "/c", RD) == fds[0])


def case_dup(d):
    a = os.open(d + "/a", RD)
    say(os.read(a, 10))
    b = os.dup(a)
    c = fcntl.fcntl(a, fcntl.F_DUPFD_CLOEXEC, 50)
    say(b, c, os.read(b, 5), os.read(c, 5), os.read(a, 5), os.lseek(b, 0, os.SEEK_CUR))
    os.dup2(b, 77, inheritable=False)
    say([fcntl.fcntl(f, fcntl.F_GETFD) for f in (a, b, c, 77)], [fcntl.fcntl(f, fcntl.F_GETFL) for f in (a, b, c, 77)])
    os.close(a)
    say(os.lseek(77, 1000, os.SEEK_SET), os.read(b, 4), os.lseek(c, 0, os.SEEK_CUR))
    x, y = os.open(d + "/b", RD), os.open(d + "/c", RD)
    os.lseek(x, 50, os.SEEK_SET)
    say(os.dup2(x, y) == y, os.read(y, 6), os.read(x, 6), of(os.dup2, 200, x), os.read(x, 2), os.dup2(x, x) == x)
    e = os.open(d + "/d", RD | os.O_DIRECTORY)
    f = os.dup(e)
    say(names(e), names(f), os.lseek(f, 0, os.SEEK_SET), names(f))
    os.close(e)
    say(names(f), os.stat("g", dir_fd=f).st_size, os.fstat(f).st_ino == os.stat(d + "/d").st_ino)
    os.closerange(x, 300)
    say(of(os.fstat, x), of(os.fstat, f))


def case_flags(d):
    a = os.open(d + "/a", RD)
    for set_to in (os.O_NONBLOCK, os.O_APPEND | os.O_NONBLOCK, 0, os.O_NOATIME):
        say(of(fcntl.fcntl, a, fcntl.F_SETFL, set_to), fcntl.fcntl(a, fcntl.F_GETFL))
    b = os.open(d + "/b", RD | os.O_CLOEXEC)
    say(fcntl.fcntl(b, fcntl.F_SETFD, 0), fcntl.fcntl(b, fcntl.F_GETFD), fcntl.fcntl(b, fcntl.F_SETFD, 1))
    say(fcntl.fcntl(b, fcntl.F_GETFD), os.pread(b, 3, 0), of(fcntl.fcntl, b, fcntl.F_GETOWN))
    say(of(fcntl.fcntl, b, 1031), of(fcntl.fcntl, b, 12345), of(fcntl.fcntl, b, fcntl.F_GETLEASE))
    os.lseek(b, 30, os.SEEK_SET)
    say(of(fcntl.ioctl, b, 0x541B, b"\0\0\0\0"), of(os.isatty, b), of(os.ttyname, b), os.read(b, 3))
    say(of(fcntl.flock, b, fcntl.LOCK_SH), of(fcntl.flock, b, fcntl.LOCK_UN), os.read(b, 3))
    c = os.open(d + "/c", RD)
    say(of(fcntl.lockf, c, fcntl.LOCK_EX), of(os.posix_fadvise, c, 0, 0, os.POSIX_FADV_SEQUENTIAL), os.read(c, 4))
    say(of(os.posix_fadvise, c, 0, -1, 0), of(os.posix_fadvise, c, 0, 0, 99))


def case_locks(d):
    w = os.open(d + "/a", os.O_RDWR)
    fcntl.lockf(w, fcntl.LOCK_EX)
    os.close(os.open(d + "/a", RD))  # takes the lock away
    pid = os.fork()
    if pid == 0:
        mine = os.open(d + "/a", os.O_RDWR)
        os._exit(0 if of(fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB) is None else 1)
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def case_wait(d):
    a, e = os.open(d + "/a", RD), os.open(d + "/d", RD)
    poll = select.poll()
    poll.register(a, select.POLLIN | select.POLLOUT)
    poll.register(e, select.POLLIN)
    say(poll.poll(1000))
    b, c = os.open(d + "/b", RD), os.open(d + "/c", RD)
    say(select.select([b, c], [b], [], 1), of(select.epoll().register, os.open(d + "/a", RD), select.EPOLLIN))
    say(os.read(a, 3), os.read(b, 3), names(e))


def case_map(d):
    for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        a = os.open(d + "/a", RD)
        os.lseek(a, 7, os.SEEK_SET)
        m = mmap.mmap(a, 0, flags, mmap.PROT_READ)
        say(m[:4], len(m), os.read(a, 3), of(mmap.mmap, a, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
        os.close(a)
        say(m[100:104])
    say(of(mmap.mmap, os.open(d + "/d", RD), 4096, mmap.MAP_SHARED, mmap.PROT_READ))


def case_transfer(d):
    out = os.open(d + "/out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    a = os.open(d + "/a", RD)
    os.lseek(a, 9, os.SEEK_SET)
    say(os.sendfile(out, a, None, 20), os.read(a, 3), os.sendfile(out, a, 5, 10), os.read(a, 3))
    b = os.open(d + "/b", RD)
    say(os.copy_file_range(b, out, 30), os.read(b, 3), os.copy_file_range(b, out, 30, 1), os.read(b, 3))
    r, w = os.pipe()
    c = os.open(d + "/c", RD)
    say(os.splice(c, w, 40), os.read(r, 40), os.read(c, 3), os.pread(out, 200, 0))
    os.close(out)
    os.unlink(d + "/out")


def case_pass(d):
    a, e = os.open(d + "/a", RD), os.open(d + "/d", RD)
    os.lseek(a, 11, os.SEEK_SET)
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [a, e])
    _, fds, _, _ = socket.recv_fds(right, 10, 5)
    say(os.read(fds[0], 4), os.read(a, 4), names(fds[1]), os.fstat(fds[1]).st_ino == os.fstat(e).st_ino)
    b = os.open(d + "/b", RD)
    os.lseek(b, 5, os.SEEK_SET)
    say(os.readlink(f"/proc/self/fd/{b}") == d + "/b", os.stat(f"/proc/self/fd/{b}").st_size, os.read(b, 2))
    c = os.open(d + "/c", RD)
    again = os.open(f"/dev/fd/{c}", RD)
    say(os.read(again, 4), os.lseek(c, 0, os.SEEK_CUR), os.listdir(f"/proc/self/fd/{e}") == os.listdir(e))
    f = os.open(d + "/a", RD)
    os.lseek(f, 13, os.SEEK_SET)
    info = os.open(f"/proc/self/fdinfo/{f}", RD)
    say(os.read(info, 30).split(b"\n")[:2])


def case_at(d):
    e = os.open(d + "/d", RD | os.O_DIRECTORY)
    g = os.open("g", RD, dir_fd=e)
    say(os.read(g, 4), os.stat("g", dir_fd=e).st_size, of(os.stat, "none", dir_fd=e), os.access("g", os.R_OK, dir_fd=e))
    say(of(os.mkdir, "new", dir_fd=e), names(e), of(os.rename, "new", "newer", src_dir_fd=e, dst_dir_fd=e))
    say(of(os.symlink, "g", "link", dir_fd=e), of(os.readlink, "link", dir_fd=e), of(os.link, "g", "hard", src_dir_fd=e,
                                                                                     dst_dir_fd=e))
    for name in ("link", "hard"):
        os.unlink(name, dir_fd=e)
    os.rmdir("newer", dir_fd=e)
    f = os.open(d + "/d/e", RD)
    say(of(os.fchdir, f), os.getcwd() == d + "/d/e", of(os.stat, "../g") == os.stat("g", dir_fd=e))
    os.chdir("/")
    w = os.open("w", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=f)
    say(os.write(w, b"w"), os.listdir(f), os.utime(f), os.fchmod(f, 0o711), oct(os.stat(d + "/d/e").st_mode))
    os.unlink("w", dir_fd=f)
    say(of(os.setxattr, f, "user.x", b"v"), of(os.getxattr, f, "user.x"), of(os.listxattr, f), os.listdir(f))
    os.unlink(d + "/d/g")
    say(of(os.fstat, g).st_nlink, os.pread(g, 3, 0))


def case_removed(d):
    a, b, e, t = (os.open(d + p, RD) for p in ("/a", "/b", "/d/e", "/d"))
    say(os.read(a, 10))
    os.unlink(d + "/a")
    say(len(os.read(a, 65536)), os.fstat(a).st_size, os.fstat(a).st_nlink, os.pread(a, 5, 100))
    fd = os.open(d + "/new", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"new contents")
    os.close(fd)
    os.rename(d + "/new", d + "/b")
    say(os.read(b, 5), os.fstat(b).st_size, mmap.mmap(b, 0, prot=mmap.PROT_READ)[:5], os.stat(d + "/b").st_size)
    os.rmdir(d + "/d/e")
    say(of(os.listdir, e), of(lambda: os.fstat(e).st_nlink), of(os.open, "x", os.O_WRONLY | os.O_CREAT, dir_fd=e))
    say(of(os.fchdir, e), of(os.getcwd))
    os.chdir("/")
    os.rename(d + "/d", d + "/moved")
    say(names(t), of(os.stat, "g", dir_fd=t).st_size, of(os.fsync, t), of(os.fchdir, t), os.path.basename(os.getcwd()))
    os.chdir("/")
    g = os.open(d + "/moved/g", RD)
    os.rename(d + "/moved/g", d + "/moved/f/h")
    say(os.pread(g, 3, 3), of(fcntl.flock, g, fcntl.LOCK_SH), os.read(g, 4))
    # Another one by the same name, by another process.
    c = os.open(d + "/c", RD)
    subprocess.run(["sh", "-c", f"rm {d}/c; echo other >{d}/c"], check=True)
    say(os.read(c, 4), os.fstat(c).st_size, os.pread(c, 6, 10000), of(fcntl.flock, c, fcntl.LOCK_SH))


def case_changed(d):
    a, b = os.open(d + "/a", RD), os.open(d + "/b", RD)
    say(os.read(a, 4))
    w = os.open(d + "/a", os.O_WRONLY)
    os.pwrite(w, b"WXYZ", 4)
    say(os.read(a, 6), os.ftruncate(w, 12), os.read(a, 10), os.read(a, 10), os.fstat(a).st_size)
    os.write(w, b"1234")
    os.close(w)
    say(os.pread(a, 20, 0), os.lseek(a, 0, os.SEEK_END))
    os.chmod(d + "/b", 0)
    say(os.read(b, 3), oct(os.fstat(b).st_mode), of(fcntl.flock, b, fcntl.LOCK_SH))
    e = os.open(d + "/d", RD)
    os.mkdir(d + "/d/more")
    say(names(e))
    os.rmdir(d + "/d/more")
    say(names(e))


def case_fork(d):
    a, e = os.open(d + "/a", RD), os.open(d + "/d", RD)
    os.read(a, 100)
    pid = os.fork()
    if pid == 0:
        os.read(a, 50)
        b = os.open(d + "/b", RD)
        say("child", os.read(b, 3), names(e), os.lseek(a, 0, os.SEEK_CUR))
        os._exit(0)
    os.waitpid(pid, 0)
    say(os.lseek(a, 0, os.SEEK_CUR), os.read(a, 4), names(e))
    c = os.open(d + "/c", RD)
    os.lseek(c, 20, os.SEEK_SET)
    subprocess.run(["head", "-c", "0"], stdin=c, check=True)
    out = subprocess.run(["dd", "bs=7", "count=1", "status=none"], stdin=c, capture_output=True, check=True).stdout
    say(out, os.lseek(c, 0, os.SEEK_CUR), os.read(c, 3))
    f = os.open(d + "/a", RD)
    os.lseek(f, 33, os.SEEK_SET)
    os.set_inheritable(f, True)
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"dd bs=5 count=1 status=none <&{f} | od -An -tx1"], dict(os.environ))
    os.waitpid(pid, 0)
    say(os.lseek(f, 0, os.SEEK_CUR))


def case_exec(d):
    a, b, e = os.open(d + "/a", RD), os.open(d + "/b", RD), os.open(d + "/d", RD)
    for fd in (a, e):
        os.set_inheritable(fd, True)
    os.lseek(a, 44, os.SEEK_SET)
    script = f"import os\nprint(os.read({a}, 5), sorted(os.listdir({e})))\n"
    script += f"try: os.read({b}, 1)\nexcept OSError as e: print(e)"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", script])


def case_failed_exec(d):
    a = os.open(d + "/a", RD)
    os.lseek(a, 44, os.SEEK_SET)
    say(of(os.execv, d + "/b", ["b"]), os.read(a, 4), fcntl.fcntl(a, fcntl.F_GETFL))


def case_script(d):
    script = f"""
    exec 7<{d}/a 8<&7 9<{d}/d
    head -c 3 <&7 | od -An -tx1; dd bs=4 count=1 status=none <&8 | od -An -tx1
    dd bs=4 count=1 status=none <&7 | od -An -tx1
    exec 7<&-
    dd bs=2 count=1 status=none <&8 | od -An -tx1; ls -d /dev/fd/9/.
    while read -r line; do echo "$line"; done <<<"$(ls {d}/d)"
    ( cd {d}/d && ls && cat g | cksum ); (exec <{d}/c; cksum)
    """
    subprocess.run(["bash", "-c", script], check=True)


def case_threads(d):
    a = os.open(d + "/a", RD)
    got, lock = [], threading.Lock()

    def read():
        while True:
            part = os.read(a, 777)
            if not part:
                return
            with lock:
                got.append(part)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    say(sorted(b"".join(got)) == sorted(text(0, 20000)), os.lseek(a, 0, os.SEEK_CUR))


def case_handlers(d):
    count = [0]

    def handler(*_):
        fd = os.open(d + "/b", RD)
        count[0] += os.read(fd, 3) == text(1, 3)
        dup = os.dup(fd)
        os.close(fd)
        count[0] += os.read(dup, 3) == text(1, 6)[3:]
        os.close(dup)
        # Only now the next one: on a slow machine the program must get on between two of them.
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    wrong = 0
    for i in range(2000):
        fd = os.open(d + "/a", RD)
        os.lseek(fd, i, os.SEEK_SET)
        if i % 50 == 0:
            fcntl.flock(fd, fcntl.LOCK_SH)
        wrong += os.read(fd, 5) != text(0, i + 5)[i:]
        os.close(fd)
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(wrong, count[0] > 0 and count[0] % 2 == 0)


def case_limits(d):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    fds = []
    while True:
        fd = of(os.open, d + "/a", RD)
        if isinstance(fd, str):
            break
        fds.append(fd)
    say(fd, len(fds), fds[-1], os.read(fds[-1], 3), of(os.dup, fds[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in fds:
        os.close(fd)


def case_identity(d):
    a = os.open(d + "/a", RD)
    os.chmod(d + "/a", 0o600)
    os.seteuid(12345)
    say(os.read(a, 3), of(os.open, d + "/a", RD), of(fcntl.flock, a, fcntl.LOCK_SH), os.pread(a, 2, 500))
    os.seteuid(0)
    say(os.read(a, 3))


def case_root(d):
    a, b, e = os.open(d + "/a", RD), os.open(d + "/b", RD), os.open(d + "/d", RD)
    say(os.read(a, 4))
    subprocess.run(["true"], check=True)
    c, f = os.open(d + "/c", RD), os.open(d + "/d", RD)
    say(os.read(c, 4))
    if os.geteuid() == 0:
        os.chroot(d + "/d/e")
    say(os.read(a, 4), os.pread(b, 4, 100), names(e), os.read(c, 4), os.fstat(c).st_size, names(f))
    say(len(mmap.mmap(c, 0, prot=mmap.PROT_READ)), of(os.stat, "g", dir_fd=f).st_size)


def case_number_flags(d):
    a, b = os.open(d + "/a", RD), os.open(d + "/b", RD | os.O_CLOEXEC)
    libc.ioctl(a, 0x5451)  # FIOCLEX
    libc.ioctl(b, 0x5450)  # FIONCLEX
    say(fcntl.fcntl(a, fcntl.F_GETFD), fcntl.fcntl(b, fcntl.F_GETFD), os.read(a, 2), os.read(b, 2))
    # While another thread makes it real.
    wrong = 0
    for i in range(300):
        c = os.open(d + "/c", RD | os.O_CLOEXEC)
        other = threading.Thread(target=fcntl.flock, args=(c, fcntl.LOCK_SH))
        other.start()
        fcntl.fcntl(c, fcntl.F_SETFD, 0)
        other.join()
        wrong += fcntl.fcntl(c, fcntl.F_GETFD) != 0 or os.pread(c, 2, 0) != text(2, 2)
        os.close(c)
    say(wrong)


def main():
    wanted = sys.argv[2:] or [n[5:] for n in globals() if n.startswith("case_")]
    for name in wanted:
        say("==", name)
        pid = os.fork()
        if pid == 0:
            globals()["case_" + name](make(name))
            sys.stdout.flush()
            os._exit(0)
        say("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


main()
