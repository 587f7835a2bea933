"""Every number that the process may have is used up, and then its files get other names: what has to be real can be.

    exhausted.py DIRECTORY             (under a limit that cannot be raised)
    exhausted.py DIRECTORY duplicates  they are used up by duplicates: what is said of a name that does not exist?
"""
import errno, fcntl, os, sys, time

root = sys.argv[1]
FILES = 20
for i in range(FILES):
    fd = os.open(f"{root}/f{i}", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, bytes([i + 1]) * 5000)
    os.close(fd)
for _ in range(5):
    for i in range(FILES):
        fd = os.open(f"{root}/f{i}", os.O_RDONLY)
        while os.read(fd, 65536):
            pass
        os.close(fd)
    time.sleep(0.03)


def asked(name):
    try:
        os.close(os.open(f"{root}/{name}", os.O_RDONLY))
        return "there"
    except OSError as error:
        return errno.errorcode[error.errno]


if sys.argv[2:]:
    answers = [asked("absent") for _ in range(5)]
    spare = []
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        answers += [asked("absent"), asked("f0")]
    os.close(spare.pop())
    answers += [asked("absent"), asked("f0")]
    sys.exit(print(*answers))
held = []
try:
    while True:
        held.append((os.open(f"{root}/f{len(held) % FILES}", os.O_RDONLY), len(held) % FILES + 1))
except OSError as error:
    print(errno.errorcode[error.errno], len(held) > 100)
for i in range(FILES):
    os.rename(f"{root}/f{i}", f"{root}/g{i}")
wrong = 0
for fd, value in held:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        wrong += os.pread(fd, 10, 100) != bytes([value]) * 10
    except OSError as error:
        print(fd, errno.errorcode[error.errno])
        wrong += 1
for fd, _ in held:
    os.close(fd)
print(wrong, "wrong")
