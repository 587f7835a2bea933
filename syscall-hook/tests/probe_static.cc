// A program without a dynamic linker: nothing can be preloaded into it.
#include <signal.h>

int main() {
  struct sigaction now;
  if (sigaction(SIGSEGV, nullptr, &now) || now.sa_handler != SIG_DFL) return 1;
  return 17;
}
