package source

import (
	"errors"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
)

// Verified passes rc through and checks that its whole content has the digest
// and the size. The check is made before io.EOF is given out: a reader that saw
// io.EOF saw the right bytes. Bytes beyond size are never given out. A size
// below 0 is not checked.
func Verified(rc io.ReadCloser, d digest.Digest, size int64) io.ReadCloser {
	v := &verified{rc: rc, digest: d, size: size}
	if err := CheckDigest(d); err != nil {
		v.err = err
		return v
	}
	v.verifier = d.Verifier()
	return v
}

type verified struct {
	rc       io.ReadCloser
	verifier digest.Verifier
	digest   digest.Digest
	size     int64
	n        int64
	err      error
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.rc.Read(p)
	if v.size >= 0 && v.n+int64(n) > v.size {
		v.err = v.corrupt("more than the %d bytes of the descriptor", v.size)
		return 0, v.err
	}
	v.n += int64(n)
	if n > 0 {
		if _, werr := v.verifier.Write(p[:n]); werr != nil {
			v.err = fmt.Errorf("hash %s: %w", v.digest, werr)
			return 0, v.err
		}
	}
	if err != nil {
		v.err = err
		if errors.Is(err, io.EOF) {
			v.err = v.check()
		}
		err = v.err
	}
	return n, err
}

// check is the answer at the end of the content.
func (v *verified) check() error {
	switch {
	case v.size >= 0 && v.n < v.size:
		return v.corrupt("%d bytes instead of %d", v.n, v.size)
	case !v.verifier.Verified():
		return v.corrupt("content does not have this digest")
	}
	return io.EOF
}

func (v *verified) corrupt(format string, args ...any) error {
	return fserr.Newf(fserr.Corrupt, "verify", v.digest.String(), format, args...)
}

// Close implements io.Closer.
func (v *verified) Close() error { return v.rc.Close() }
