package testenv

import (
	"os"
	"path/filepath"
)

// Repository is the checkout's root: the folder at or above the working directory that holds go.mod. Tests run in their package's folder.
func Repository() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			panic("testenv: no go.mod at or above the working directory")
		}
		dir = parent
	}
}
