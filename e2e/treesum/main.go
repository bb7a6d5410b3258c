// Command treesum prints everything that the trees named on its command line
// show: one line per path with metadata, extended attributes and the sha256 of
// the content. It is static, so tests can run it in any guest.
package main

import (
	"fmt"
	"os"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

func main() {
	for _, root := range os.Args[1:] {
		nodes, err := treesum.Walk(root, treesum.Options{})
		if err == nil {
			err = treesum.Write(os.Stdout, nodes)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "treesum:", err)
			os.Exit(1)
		}
	}
}
