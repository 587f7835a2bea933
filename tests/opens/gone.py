"""What a program sees whose daemon is killed while it has a file and a directory open: printed, the same with the hook
and without. The call is the first after that: nothing has found out yet.

    gone.py DIRECTORY DAEMON CALL
"""
import errno, fcntl, os, select, signal, sys, time

where, daemon, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def fork(*_):
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitpid(pid, 0)[1]


CALLS = {
    "flock": lambda fd, _: fcntl.flock(fd, fcntl.LOCK_SH),
    "fork": fork,
    "fsync": lambda _, directory: os.fsync(directory),
    "poll": lambda fd, _: select.select([fd], [], [], 0) and None,
    "seteuid": lambda *_: os.seteuid(os.geteuid()),
}


def read_through(fd):
    while os.read(fd, 65536):
        pass
    os.close(fd)


for _ in range(5):
    read_through(os.open(where + "/a", os.O_RDONLY))
    os.listdir(where)
    time.sleep(0.05)
file, directory = os.open(where + "/a", os.O_RDONLY), os.open(where, os.O_RDONLY)
again = os.dup(file)
gone = os.pidfd_open(daemon)
os.kill(daemon, signal.SIGKILL)
# With all its threads: what it had open is closed by then, and no request of ours is on its way any more.
select.select([gone], [], [], 20)
time.sleep(0.3)
try:
    print(wanted, CALLS[wanted](file, directory), flush=True)
except OSError as e:
    print(wanted, errno.errorcode[e.errno], flush=True)
try:
    print(os.read(again, 10))
except OSError as e:
    print(errno.errorcode[e.errno])
