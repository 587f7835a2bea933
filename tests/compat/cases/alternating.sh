# static, pure Go and cgo programs, which the hook leaves to the kernel, and a hooked one change the same files in turn:
# nobody may see an older state
# keep: ./none
# served: python3
# seconds: 300
export HOME=$scratch GO111MODULE=off
cat >"$scratch/peer.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static void look(const char *path) {
  struct stat st;
  if (lstat(path, &st) != 0) { puts("absent"); return; }
  char text[64] = "";
  FILE *f = S_ISREG(st.st_mode) ? fopen(path, "r") : NULL;
  if (f != NULL) { text[fread(text, 1, sizeof text - 1, f)] = 0; fclose(f); }
  if (S_ISLNK(st.st_mode)) text[readlink(path, text, sizeof text - 1)] = 0;
  printf("%o %ld %s\n", st.st_mode, S_ISDIR(st.st_mode) ? 0 : (long)st.st_size, text);
}
static int put(const char *path, const char *mode, const char *text) {
  FILE *f = fopen(path, mode);
  return f == NULL || fputs(text, f) < 0 || fclose(f) != 0;
}
int main(void) {
  char line[600], op[16], a[256], b[256];
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof line, stdin) != NULL) {
    sscanf(line, "%15s %255s %255s", op, a, b);
    unsigned mode = 0;
    int failed = -1;
    if (strcmp(op, "look") == 0) { look(a); continue; }
    if (strcmp(op, "write") == 0) failed = put(a, "w", b);
    if (strcmp(op, "append") == 0) failed = put(a, "a", b);
    if (strcmp(op, "patch") == 0) failed = put(a, "r+", b);
    if (strcmp(op, "rename") == 0) failed = rename(a, b);
    if (strcmp(op, "remove") == 0) failed = remove(a);
    if (strcmp(op, "mkdir") == 0) failed = mkdir(a, 0755);
    if (strcmp(op, "symlink") == 0) failed = symlink(b, a);
    if (strcmp(op, "chmod") == 0) failed = sscanf(b, "%o", &mode) != 1 || chmod(a, mode);
    puts(failed ? "failed" : "done");
  }
  return 0;
}
C
cat >"$scratch/peer.go" <<'GO'
package main

//CGO import "C"
import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func look(path string) {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		fmt.Println("absent")
		return
	}
	text, size := "", st.Size
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		b, _ := os.ReadFile(path)
		text = string(b)
	case syscall.S_IFLNK:
		text, _ = os.Readlink(path)
	case syscall.S_IFDIR:
		size = 0
	}
	fmt.Printf("%o %d %s\n", st.Mode, size, text)
}

func put(path string, flags int, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0644)
	if err != nil {
		return err
	}
	f.WriteString(text)
	return f.Close()
}

func change(op, a, b string) error {
	switch op {
	case "write":
		return put(a, os.O_CREATE|os.O_TRUNC, b)
	case "append":
		return put(a, os.O_CREATE|os.O_APPEND, b)
	case "patch":
		return put(a, 0, b)
	case "rename":
		return os.Rename(a, b)
	case "remove":
		return os.Remove(a)
	case "mkdir":
		return os.Mkdir(a, 0755)
	case "symlink":
		return os.Symlink(b, a)
	}
	mode, _ := strconv.ParseUint(b, 8, 32)
	return os.Chmod(a, os.FileMode(mode))
}

func main() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := append(strings.Fields(in.Text()), "")
		if words[0] == "look" {
			look(words[1])
		} else if change(words[0], words[1], words[2]) == nil {
			fmt.Println("done")
		} else {
			fmt.Println("failed")
		}
	}
}
GO
cat >"$scratch/turns.py" <<'PY'
import os, random, stat, subprocess, sys, time

def look(path):
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return "absent"
    text, size = "", st.st_size
    if stat.S_ISREG(st.st_mode):
        text = open(path).read()
    elif stat.S_ISLNK(st.st_mode):
        text = os.readlink(path)
    else:
        size = 0
    return f"{st.st_mode:o} {size} {text}"

def put(path, how, text):
    with open(path, how) as f:
        f.write(text)

CHANGES = {
    "write": lambda a, b: put(a, "w", b), "append": lambda a, b: put(a, "a", b), "patch": lambda a, b: put(a, "r+", b),
    "rename": os.rename, "remove": lambda a, _: os.rmdir(a) if os.path.isdir(a) else os.unlink(a),
    "mkdir": lambda a, _: os.mkdir(a, 0o755), "symlink": lambda a, b: os.symlink(b, a),
    "chmod": lambda a, b: os.chmod(a, int(b, 8))}

class Own:  # this process
    def change(self, op, a, b=""):
        CHANGES[op](a, b)
    look = staticmethod(look)

class Peer:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().rstrip("\n")
    def change(self, op, a, b=""):
        answer = self.ask(op, a, b)
        assert answer == "done", (op, a, b, answer)
    def look(self, path):
        return self.ask("look", path)

def rounds(name, changers, lookers):
    """Each round one changes something, here and in a directory outside, where all look at what must be seen here."""
    rng, seen, wrong, outside = random.Random(name), 0, 0, os.path.join(sys.argv[1], name)
    os.mkdir(name)
    os.mkdir(outside)
    for step in range(40):
        op, path, word = rng.choice([*CHANGES, "write", "patch"]), rng.choice("fgdl"), f"{step:04}" * rng.randint(1, 5)
        there = os.path.join(outside, path)
        if not os.path.lexists(there):
            op = op if op in ("mkdir", "symlink") else "write"
        elif op in ("mkdir", "symlink") or os.path.isdir(there) or os.path.islink(there):
            op = "remove"
        elif op == "rename":
            word = rng.choice([other for other in "fgdl" if not os.path.isdir(os.path.join(outside, other))])
        elif op == "chmod":
            word = rng.choice(["600", "644", "755"])
        for root, who in ((outside, Own()), (name, changers[step % len(changers)])):
            who.change(op, os.path.join(root, path), os.path.join(root, word) if op == "rename" else word)
        for again in range(12 if step % 4 == 0 else 3):
            if again == 4:
                time.sleep(0.03)  # contents are kept when their last change lies back a little
            for looker in lookers:
                for path in "fgdl":
                    expected, answer = look(os.path.join(outside, path)), looker.look(os.path.join(name, path))
                    seen += 1
                    if answer != expected:
                        wrong += 1
                        print(name, step, op, path, type(looker).__name__, "sees", answer, "not", expected)
            if sorted(os.listdir(name)) != sorted(os.listdir(outside)):
                wrong += 1
                print(f"{name} {step} {op}: listed {os.listdir(name)}, not {os.listdir(outside)}")
    print(name, seen, "looks,", wrong, "wrong")

peers = {name: Peer(os.path.join(sys.argv[1], name)) for name in ("static", "pure", "cgo")}
for name, peer in peers.items():
    rounds(name + "-changes", [peer], [Own()])
    rounds(name + "-looks", [Own()], [peer])
    rounds(name + "-both", [peer, Own()], [Own(), peer])
rounds("all", [*peers.values(), Own()], [Own(), *peers.values()])
PY
mkdir "$scratch/c" && sed 's,^//CGO ,,' "$scratch/peer.go" >"$scratch/c/peer.go"
gcc -static -O1 -o "$scratch/static" "$scratch/peer.c" &&
  CGO_ENABLED=0 go build -o "$scratch/pure" "$scratch/peer.go" &&
  CGO_ENABLED=1 go build -o "$scratch/cgo" "$scratch/c/peer.go" && python3 "$scratch/turns.py" "$scratch"
