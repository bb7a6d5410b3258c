package conformance_test

import (
	"fmt"
	"os"
	"testing"

	"go.podman.io/storage/pkg/reexec"
)

// madeDirs are removed at the end.
var madeDirs []string

func TestMain(m *testing.M) {
	if reexec.Init() { // containers/storage runs parts of itself as processes
		return
	}
	code := m.Run()
	for _, dir := range madeDirs {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
