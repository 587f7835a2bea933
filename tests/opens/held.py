"""Has a file open, stops the process that the file's daemon waits for, and makes a call after that: printed is what it
gives, when the daemon has been killed meanwhile.

    held.py DIRECTORY NAME STOPPED NOTE CALL
NOTE.ready is made when all is set; CALL is `flock`, or `later`: the same when NOTE.killed is there.
"""
import errno, fcntl, os, signal, sys, time

where, name, stopped, note, call = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]

os.chdir(where)
for _ in range(5):
    fd = os.open(name, os.O_RDONLY)
    while os.read(fd, 65536):
        pass
    os.close(fd)
    time.sleep(0.05)
file = os.open(name, os.O_RDONLY)
os.kill(stopped, signal.SIGSTOP)
open(note + ".ready", "w").close()
while call == "later" and not os.access(note + ".killed", os.F_OK):
    time.sleep(0.01)
for attempt in range(2):
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        print("locked")
    except OSError as e:
        print(errno.errorcode[e.errno])
