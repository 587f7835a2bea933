"""Has a file open whose open was served, and makes a call that the daemon is asked for, when it is told to: printed is
what it gives.

    held.py DIRECTORY NAME NOTE
NOTE.ready is made when all is set; the call follows when NOTE.go is there.
"""
import errno, fcntl, os, sys, time

where, name, note = sys.argv[1:]

os.chdir(where)
for _ in range(5):
    fd = os.open(name, os.O_RDONLY)
    while os.read(fd, 65536):
        pass
    os.close(fd)
    time.sleep(0.05)
file = os.open(name, os.O_RDONLY)
open(note + ".ready", "w").close()
while not os.access(note + ".go", os.F_OK):
    time.sleep(0.01)
for attempt in range(2):
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        print("locked")
    except OSError as e:
        print(errno.errorcode[e.errno])
