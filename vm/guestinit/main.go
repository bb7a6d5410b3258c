// Command guestinit is the first process of a test guest: it loads modules,
// mounts the root, configures the network, runs one command, reports its
// output and exit status to the host, and powers the guest off.
//
// Started under the name "signal" inside a running guest it tells the host a
// word over TCP and prints the answer, so that a script can wait for the test.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if filepath.Base(os.Args[0]) == "signal" {
		if err := signal(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "signal:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit: runs only as the first process of a test guest")
		os.Exit(2)
	}
	boot()
}
