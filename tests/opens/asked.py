"""What programs ask of a file before they read it: holes, terminals, emptiness. Prints the answers.

asked.py make DIR: the files; asked.py change DIR: other holes, other sizes; asked.py ask DIR: every question;
asked.py ask_again DIR: those whose answers can be known once they were asked.
"""
import fcntl
import os
import sys
import termios

SIZE = 300_000
NAMES = ["full", "holed", "short", "empty"]


def make(where):
    for number in range(20):
        for name in NAMES:
            with open(f"{where}/{name}{number}", "wb") as file:
                if name == "full":
                    file.write(b"x" * SIZE)
                elif name == "holed":
                    file.write(b"y" * 8192)
                    file.seek(SIZE)
                    file.write(b"z" * 5000)
                elif name == "short":
                    file.write(b"s" * (1 + number))


def change(where):
    for number in range(0, 20, 2):
        with open(f"{where}/full{number}", "r+b") as file:
            file.seek(SIZE + 100_000)
            file.write(b"end")
        with open(f"{where}/holed{number}", "r+b") as file:
            file.seek(4096 * number)
            file.write(b"filled")
        os.truncate(f"{where}/short{number}", 100_000)
        with open(f"{where}/empty{number}", "wb") as file:
            file.write(b"no longer empty")


def seek(fd, at, whence):
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        return error.errno


def terminal(fd):
    try:
        return fcntl.ioctl(fd, termios.TCGETS, bytes(64))
    except OSError as error:
        return error.errno


PLACES = (0, 1, 4096, 10_000, 98_304, SIZE - 1, SIZE, SIZE + 200_000, -1)
KNOWN_PLACES = {"full": (0, 1, 98_304, SIZE - 1), "holed": (0, 1, 4096), "short": (0,), "empty": ()}


def ask_again(where):
    ask(where, lambda name: KNOWN_PLACES[name.rstrip("0123456789")])


def ask(where, places=lambda name: PLACES):
    for name in sorted(os.listdir(where)):
        fd = os.open(f"{where}/{name}", os.O_RDONLY)
        said = [terminal(fd), terminal(fd), os.isatty(fd), os.fstat(fd).st_size, os.read(fd, 5)]
        for at in places(name):
            for whence in (os.SEEK_HOLE, os.SEEK_DATA):
                said += [seek(fd, at, whence), os.lseek(fd, 0, os.SEEK_CUR)]
        said += [os.read(fd, 3), os.pread(fd, 4, 2)]
        print(name, *said)
        os.close(fd)


if __name__ == "__main__":
    {"make": make, "ask": ask, "ask_again": ask_again, "change": change}[sys.argv[1]](sys.argv[2])
