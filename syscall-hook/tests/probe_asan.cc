// A program with a sanitiser's run-time library in it.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main() {
  struct stat status;
  if (stat("/fake/5", &status) || status.st_size != 5) return 1;
  // Not stat(): the sanitiser reads the name itself first.
  if (syscall(21 /* access */, (char *)8, 0) != -1 || errno != EFAULT) return 2;
  for (int i = 0; i < 20; i++) {
    pid_t pid = fork();
    if (pid == 0) _exit(stat("/fake/6", &status) ? 1 : 0);
    int result;
    if (waitpid(pid, &result, 0) != pid || result) return 3;
    pthread_t thread;
    if (pthread_create(&thread, nullptr, [](void *) -> void * { return malloc(100); }, nullptr)) return 4;
    void *memory;
    pthread_join(thread, &memory);
    free(memory);
  }
  return 0;
}
