// Command nineply-verifier is an image verifier for containerd 2.x: put into the
// directory of its verifiers, it forbids pulls of images that would get files of another
// image with forged diff IDs.
package main

import (
	"context"
	"os"

	"github.com/nineply/nineply/internal/verifier"
)

func main() {
	os.Exit(verifier.Run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}
