# programs built with sanitisers, whose calls are the kernel's as the runtimes make some themselves, between hooked ones
# keep: *.c
# served: cat
cat >p.c <<'C'
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
static void *work(void *path) {
  long bytes = 0;
  DIR *d = opendir(path);
  for (struct dirent *e; (e = readdir(d));) {
    char name[512];
    struct stat st;
    snprintf(name, sizeof name, "%s/%s", (char *)path, e->d_name);
    if (stat(name, &st) || !S_ISREG(st.st_mode)) continue;
    char *buffer = malloc((size_t)st.st_size + 1);
    FILE *f = fopen(name, "r");
    bytes += (long)fread(buffer, 1, (size_t)st.st_size, f);
    fclose(f);
    free(buffer);
  }
  closedir(d);
  return (void *)bytes;
}
int main(void) {
  pthread_t t[4];
  char path[512];
  snprintf(path, sizeof path, "%s/include", getenv("project"));
  for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, work, path);
  for (int i = 0; i < 4; i++) {
    void *bytes;
    pthread_join(t[i], &bytes);
    printf("%ld\n", (long)bytes);
  }
  return 0;
}
C
for kind in address thread undefined; do
  LD_PRELOAD= gcc -g -O1 -fsanitize=$kind -o p p.c -lpthread
  cat "$project"/include/*.h | wc -c
  ASAN_OPTIONS=verify_asan_link_order=0 ./p && echo "$kind"
done
