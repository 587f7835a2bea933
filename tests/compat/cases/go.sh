# keep: ./d/*
export HOME=$scratch GOFLAGS=-mod=mod GO111MODULE=off
cat >a.go <<'GO'
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	os.Mkdir("d", 0755)
	for i := 0; i < 50; i++ {
		os.WriteFile(fmt.Sprintf("d/f%d", i), make([]byte, i), 0644)
	}
	for _, root := range []string{"d", os.Getenv("project")} {
		files, bytes := 0, int64(0)
		filepath.Walk(root, func(p string, i os.FileInfo, e error) error {
			if e == nil && i.Mode().IsRegular() {
				b, _ := os.ReadFile(p)
				files, bytes = files+1, bytes+i.Size()+int64(len(b))
			}
			return nil
		})
		fmt.Println(root == "d", files, bytes)
	}
}
GO
go build -o prog a.go && ./prog
