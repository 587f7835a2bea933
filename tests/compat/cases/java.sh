# streams, channels, mapped files, a walk, child processes
# keep: ./d/*
# served: java
cat >"$scratch/A.java" <<'JAVA'
import java.io.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
public class A {
  public static void main(String[] args) throws Exception {
    Path d = Files.createDirectory(Path.of("d"));
    for (int i = 0; i < 100; i++) Files.writeString(d.resolve("f" + i), "y".repeat(i));
    long sum = 0, files = 0;
    for (Path root : new Path[] {d, Path.of(System.getenv("project"))}) {
      try (var walk = Files.walk(root)) {
        for (Path p : (Iterable<Path>) walk.sorted()::iterator) {
          if (!Files.isRegularFile(p)) continue;
          files++;
          sum += Files.size(p) + Files.readAllBytes(p).length;
        }
      }
    }
    System.out.println(files + " " + sum);
    try (FileChannel c = FileChannel.open(d.resolve("f99"), StandardOpenOption.READ)) {
      MappedByteBuffer m = c.map(FileChannel.MapMode.READ_ONLY, 0, c.size());
      System.out.println((char) m.get(50));
    }
    try (RandomAccessFile r = new RandomAccessFile("d/f98", "rw"); FileLock lock = r.getChannel().lock()) {
      r.seek(10);
      r.write(65);
      r.seek(9);
      System.out.println(r.read() + " " + r.read() + " " + lock.isValid());
    }
    Process p = new ProcessBuilder("ls", "d").start();
    System.out.println(new String(p.getInputStream().readAllBytes()).length());
    Files.move(d.resolve("f1"), d.resolve("g1"), StandardCopyOption.ATOMIC_MOVE);
    System.out.println(Files.exists(d.resolve("f1")) + " " + Files.exists(d.resolve("g1")));
  }
}
JAVA
cp "$scratch/A.java" . && javac -d classes A.java && java -cp classes A
