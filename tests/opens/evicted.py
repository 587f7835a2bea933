"""Descriptors whose open was served are made real although the cache has evicted what it knew of them.

evicted.py DIRECTORY, on a mount with little memory (bpftime_mem=4M). Prints what went wrong.
"""
import mmap, os, sys, time

FILES, BIG, BIG_BYTES, ROUNDS = 100, 8, 4 << 20, 6

os.chdir(sys.argv[1])  # the paths are relative, so that nobody can go by them
for i in range(FILES):
    os.mkdir(f"d{i}")
    with open(f"d{i}/f", "w") as f:
        f.write(f"{i} " * 100)
for i in range(BIG):
    with open(f"big{i}", "wb") as f:
        f.write(bytes(BIG_BYTES))
time.sleep(0.05)  # contents are kept when they have not changed for a little while

wrong = 0
for step in range(ROUNDS):
    for again in range(3):
        for i in range(FILES):
            with open(f"d{i}/f") as f:
                f.read()
            os.listdir(f"d{i}")
    held = [(i, os.open(f"d{i}/f", os.O_RDONLY), os.open(f"d{i}", os.O_RDONLY)) for i in range(FILES)]
    for i in range(BIG):
        with open(f"big{i}", "rb", buffering=0) as f:
            while f.read(1 << 17):
                pass
    for i, file, directory in held:
        try:
            with mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == f"{i} ".encode() * 100
            os.utime("f", dir_fd=directory)
        except OSError as error:
            wrong += 1
            print(step, i, error)
        os.close(file)
        os.close(directory)
print(wrong, "wrong")
