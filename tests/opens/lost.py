"""What a program sees while the process that opens files for a mount's daemon is killed, twice (in steps 1 and 2).

    lost.py DIRECTORY NOTE
For each step NOTE.ready.N is made when a file is open, and NOTE.go.N waited for.
"""
import errno, fcntl, os, sys, time

where, note = sys.argv[1], sys.argv[2]
os.chdir(where)


def opened(name):
    for _ in range(20):
        fd = os.open(name, os.O_RDONLY)
        while os.read(fd, 65536):
            pass
        os.close(fd)
        time.sleep(0.05)
    return os.open(name, os.O_RDONLY)


def step(number, file):
    open("%s.ready.%d" % (note, number), "w").close()
    while not os.access("%s.go.%d" % (note, number), os.F_OK):
        time.sleep(0.01)
    for call in (lambda: fcntl.flock(file, fcntl.LOCK_SH), lambda: os.read(file, 10)):
        try:
            print(number, call(), flush=True)
        except OSError as e:
            print(number, errno.errorcode[e.errno], flush=True)


for number, name in enumerate("abc"):
    step(number + 1, opened(name))
