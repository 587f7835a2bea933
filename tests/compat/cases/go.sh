# go build, and what it makes: pure Go and cgo, whose calls are the kernel's, between hooked programs
# keep: ./d*/*
# served: ld cat find
export HOME=$scratch GOFLAGS=-mod=mod GO111MODULE=off
cat >a.go <<'GO'
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	d := os.Args[1]
	os.Mkdir(d, 0755)
	for i := 0; i < 50; i++ {
		os.WriteFile(fmt.Sprintf("%s/f%d", d, i), make([]byte, i), 0644)
	}
	for _, root := range []string{d, os.Getenv("project")} {
		files, bytes := 0, int64(0)
		filepath.Walk(root, func(p string, i os.FileInfo, e error) error {
			if e == nil && i.Mode().IsRegular() {
				b, _ := os.ReadFile(p)
				files, bytes = files+1, bytes+i.Size()+int64(len(b))
			}
			return nil
		})
		fmt.Println(root == d, files, bytes)
	}
}
GO
cat >cgo.go <<'GO'
package main

// #include <dirent.h>
// #include <stdio.h>
// #include <stdlib.h>
// static long bytes_in(const char *path) {
//   char buffer[4096];
//   long bytes = 0;
//   FILE *f = fopen(path, "r");
//   if (f == NULL) return -1;
//   for (size_t got; (got = fread(buffer, 1, sizeof buffer, f)) > 0;) bytes += got;
//   fclose(f);
//   return bytes;
// }
import "C"
import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"
)

func main() {
	var group sync.WaitGroup
	sizes := make(chan C.long, 10000)
	filepath.Walk(os.Getenv("project")+"/include", func(p string, i os.FileInfo, e error) error {
		if e == nil && i.Mode().IsRegular() {
			group.Add(1)
			go func() {
				defer group.Done()
				name := C.CString(p)
				defer C.free(unsafe.Pointer(name))
				sizes <- C.bytes_in(name)
			}()
		}
		return nil
	})
	group.Wait()
	close(sizes)
	files, sum := 0, C.long(0)
	for size := range sizes {
		files, sum = files+1, sum+size
	}
	fmt.Println(files, sum)
}
GO
CGO_ENABLED=0 go build -o pure a.go && ./pure d && cat d/f* | wc -c
CGO_ENABLED=1 go build -o with-c cgo.go && ./with-c && find "$project/include" -type f -exec cat {} + | wc -c
./pure d2 && ./pure d && cat d/f* d2/f* | wc -c && find d d2 -type f | wc -l
