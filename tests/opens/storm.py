"""Descriptors under load: threads and processes open, duplicate, read, map, fork and exec, while somebody else renames,
replaces and removes the files. Every file consists of one byte value, told by its first byte, so that a mixture
of two is seen; its size is told by fstat() of the same descriptor.

    storm.py read DIRECTORY SECONDS SEED       the one that is run with the hook; status 0 when nothing was wrong
    storm.py read_what_gets_lost ...           likewise, where the file system itself loses what was removed in the
                                               middle of an open (sshfs: ENOENT, in 2 of 24 storms without the hook)
    storm.py change DIRECTORY SECONDS SEED     changes names until the time is over
    storm.py make DIRECTORY                    the files
"""
import fcntl, mmap, os, random, subprocess, sys, threading, time

what, root = sys.argv[1], sys.argv[2]
FILES, SIZE = 40, 9000
failures = []
loses = what == "read_what_gets_lost"


def wrong(*text):
    failures.append(" ".join(map(str, text)))


def name(i):
    return f"{root}/d{i % 4}/f{i}"


def put(i, value):
    """A file appears under its name whole."""
    fresh = f"{root}/new.{os.getpid()}.{i}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, bytes([value]) * (SIZE + value))
    os.close(fd)
    os.rename(fresh, name(i))


def whole(data, size, at, where):
    if data and (data.count(data[0]) != len(data) or (size and size != SIZE + data[0])):
        wrong(where, "mixed or of another file:", data[0], size, at)


def look(fd, rng, where):
    size = os.fstat(fd).st_size
    first = os.pread(fd, 100, 0)
    whole(first, size, 0, where)
    at = os.lseek(fd, rng.randrange(SIZE), os.SEEK_SET)
    part = os.read(fd, 3000)
    whole(part, size, at, where)
    if part and first and part[0] != first[0]:
        wrong(where, "another file than before")
    if os.lseek(fd, 0, os.SEEK_CUR) != at + len(part):
        wrong(where, "the offset is not behind what was read")
    return first[:1]


def in_child(fd, value, rng, where):
    os.lseek(fd, 500, os.SEEK_SET)
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = os.read(fd, 1000) == value * 1000
        except FileNotFoundError:
            good = loses
        finally:
            os._exit(0 if good and not failures else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        wrong(where, "the child read something else")
    if os.lseek(fd, 0, os.SEEK_CUR) != 1500:
        wrong(where, "the offset is not shared with the child")


def by_exec(fd, value, where):
    os.lseek(fd, 700, os.SEEK_SET)
    got = subprocess.run(["head", "-c", "64"], stdin=fd, capture_output=True).stdout
    if got != value * 64:
        wrong(where, "the program read something else:", got[:8])


def use(held, rng, where, single):
    fd = held[0]
    value = look(fd, rng, where)
    choice = rng.randrange(12)
    if choice < 3:
        other = os.dup(fd)
        os.close(fd)
        fd = held[0] = other
        if look(fd, rng, where + " dup") != value:
            wrong(where, "the duplicate is another file")
    elif choice == 3:
        if mmap.mmap(fd, 0, prot=mmap.PROT_READ)[200:201] != value:
            wrong(where, "mapped is another file")
    elif choice == 4:
        fcntl.flock(fd, fcntl.LOCK_SH)
    elif choice == 5 and single:
        in_child(fd, value, rng, where)
    elif choice == 6:
        by_exec(fd, value, where)
    elif choice == 7:
        time.sleep(0.002)
    if look(fd, rng, where + f" after {choice}") != value:
        wrong(where, "it has become another file", choice)


def one(rng, i, where, single):
    try:
        held = [os.open(name(i), os.O_RDONLY | rng.choice((0, os.O_CLOEXEC)))]
    except FileNotFoundError:
        return
    try:
        use(held, rng, where, single)
    except FileNotFoundError:
        if not loses:
            raise
    finally:
        os.close(held[0])


def listing(rng, where):
    try:
        fd = os.open(f"{root}/d{rng.randrange(4)}", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    other = os.dup(fd)
    names = os.listdir(fd)
    if len(set(names)) != len(names):
        wrong(where, "listed twice:", names)
    for entry in names[:3]:
        try:
            os.stat(entry, dir_fd=other)
        except FileNotFoundError:
            pass
    os.close(other)
    os.close(fd)


def reader(end, seed, single):
    rng = random.Random(seed)
    try:
        while time.monotonic() < end and not failures:
            one(rng, rng.randrange(FILES), f"seed {seed}:", single)
            if rng.randrange(4) == 0:
                listing(rng, f"seed {seed}:")
    except Exception as error:
        wrong("seed", seed, repr(error))


def descriptors():
    """By number, what the process has open; the hook's own are above."""
    return {n: os.readlink(f"/proc/self/fd/{n}") for n in range(900) if os.path.lexists(f"/proc/self/fd/{n}")}


def read(seconds, seed):
    before = descriptors()
    end = time.monotonic() + seconds
    reader(time.monotonic() + seconds / 2, seed, True)
    threads = [threading.Thread(target=reader, args=(end, seed * 100 + n, False)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Threads that have been joined may still be on their way out, and libc has files of its own then.
    patience = time.monotonic() + 30
    while (left := descriptors()) != before and time.monotonic() < patience:
        time.sleep(0.05)
    if left != before:
        wrong("descriptors are left:", left, "before:", before)
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def change(seconds, seed):
    rng, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        i = rng.randrange(FILES)
        kind = rng.randrange(20)
        if kind < 10:
            put(i, rng.randrange(1, 250))
        elif kind < 19:
            os.unlink(name(i))
            put(i, rng.randrange(1, 250))
        else:
            os.rename(f"{root}/d{i % 4}", f"{root}/moved")
            os.rename(f"{root}/moved", f"{root}/d{i % 4}")
        time.sleep(rng.choice((0, 0.001, 0.02, 0.1, 0.1)))
    return 0


if what == "make":
    for d in range(4):
        os.mkdir(f"{root}/d{d}")
    for i in range(FILES):
        put(i, i + 1)
else:
    sys.exit({"read": read, "read_what_gets_lost": read, "change": change}[what](float(sys.argv[3]), int(sys.argv[4])))
