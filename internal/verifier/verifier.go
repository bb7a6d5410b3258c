// Package verifier is an image verifier of containerd 2.x: a program that containerd
// runs before it pulls an image, and that may forbid it. It asks the daemon whether a
// layer of the image claims a chain ID that the daemon knows with other bytes.
//
// containerd tells the reference and the digest by flags and the descriptor on the
// standard input. It takes the exit code for the judgement, 0 to go on, and shows what
// is printed. This package decides nothing itself. A daemon that does not answer
// forbids no pull unless it is told so, since without a daemon nothing is pulled
// lazily either.
package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

const (
	// maxInput bounds the descriptor, bytes.
	maxInput = 1 << 20
	// mediaTypeDescriptor is what containerd gives on the standard input.
	mediaTypeDescriptor = "application/vnd.oci.descriptor.v1+json"
)

// DefaultAddress is the daemon's socket as it is without configuration.
const DefaultAddress = "/run/nineply/control.sock"

// request is what containerd asks.
type request struct {
	name, digest, mediaType string
	address                 string
	timeout                 time.Duration
	require                 bool
}

// Run judges and returns the exit code. getenv gives the settings, since containerd
// passes no flags of the administrator: NINEPLY_ADDRESS, NINEPLY_VERIFIER_TIMEOUT (a
// duration; 8s) and NINEPLY_VERIFIER_REQUIRE (any text: no pull without the daemon).
func Run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	r, err := parse(args, getenv, stdin, stderr)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		err = control.NewClient(r.address).CheckImage(ctx, control.ImageCheck{Ref: r.name, Digest: r.digest})
	}
	ok, reason := judge(r, err)
	if _, err := fmt.Fprintln(stdout, reason); err != nil || !ok {
		return 1
	}
	return 0
}

// judge decides what becomes of the pull.
func judge(r request, err error) (ok bool, reason string) {
	switch kind := fserr.KindOf(err); {
	case err == nil:
		return true, "no chain of " + r.name + " is known with other bytes"
	case kind == fserr.Unavailable || kind == fserr.Unauthorized || kind == fserr.NotExist || errors.Is(err, context.DeadlineExceeded):
		return !r.require, fmt.Sprintf("%s was not checked: %v", r.name, err)
	default:
		return false, err.Error()
	}
}

func parse(args []string, getenv func(string) string, stdin io.Reader, stderr io.Writer) (request, error) {
	r := request{address: DefaultAddress, timeout: 8 * time.Second, require: getenv("NINEPLY_VERIFIER_REQUIRE") != ""}
	if a := strings.TrimPrefix(getenv("NINEPLY_ADDRESS"), "unix:"); a != "" {
		r.address = a
	}
	flags := flag.NewFlagSet("nineply-verifier", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&r.name, "name", "", "reference of the image")
	flags.StringVar(&r.digest, "digest", "", "its digest")
	flags.StringVar(&r.mediaType, "stdin-media-type", "", "media type of the standard input")
	if err := flags.Parse(args); err != nil {
		return r, fserr.New(fserr.Invalid, "verifier", "arguments", err)
	}
	if r.name == "" || r.digest == "" {
		return r, fserr.Newf(fserr.Invalid, "verifier", "arguments", "-name and -digest are needed")
	}
	if t := getenv("NINEPLY_VERIFIER_TIMEOUT"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 {
			return r, fserr.Newf(fserr.Invalid, "verifier", "NINEPLY_VERIFIER_TIMEOUT", "%q is no duration", t)
		}
		r.timeout = d
	}
	return r, r.readDescriptor(stdin)
}

// readDescriptor holds the digest against the descriptor. One of a media type that is not
// known, which a later containerd may send, is left alone.
func (r *request) readDescriptor(stdin io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err != nil {
		return fserr.New(fserr.Invalid, "verifier", "descriptor", err)
	}
	if r.mediaType != mediaTypeDescriptor {
		return nil
	}
	var desc struct {
		Digest string `json:"digest"`
	}
	if len(text) > maxInput {
		return fserr.Newf(fserr.Invalid, "verifier", "descriptor", "more than %d bytes", maxInput)
	}
	if err := json.Unmarshal(text, &desc); err != nil {
		return fserr.New(fserr.Invalid, "verifier", "descriptor", err)
	}
	if desc.Digest != r.digest {
		return fserr.Newf(fserr.Invalid, "verifier", "descriptor", "it has digest %q, -digest says %q", desc.Digest, r.digest)
	}
	return nil
}
