package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/nineply/nineply/internal/fserr"
)

// failure is why one host did not serve one request.
type failure struct {
	kind   fserr.Kind
	retry  bool          // asking again may help
	after  time.Duration // what the host wants to be left alone for
	down   bool          // the host itself is in trouble, not only this request
	tls    bool          // the two sides do not agree on who they are
	behind bool          // it was this side that ended the request, to ask for the rest anew
	err    error
}

// advice is what whoever reads the error may do about it; empty if there is nothing
// but to wait.
func (f *failure) advice(host string) string {
	switch {
	case f.tls:
		return "; hosts.toml can name the CA certificate of " + host
	case f.kind == fserr.Unauthorized:
		return "; check the credentials for " + host
	case f.kind == fserr.Corrupt:
		return "; something between here and " + host + " changes what is sent, or its copy is damaged"
	}
	return ""
}

// Error implements error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap gives the cause.
func (f *failure) Unwrap() error { return f.err }

// fail is a failure that no repetition will change.
func fail(kind fserr.Kind, format string, args ...any) *failure {
	return &failure{kind: kind, err: fmt.Errorf(format, args...)}
}

// failAgain is a failure that may pass.
func failAgain(kind fserr.Kind, format string, args ...any) *failure {
	return &failure{kind: kind, retry: true, err: fmt.Errorf(format, args...)}
}

// asFailure makes a failure of any error.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{kind: fserr.KindOf(err), err: err}
}

// errStalled is the cause of a request that was ended because nothing came.
var errStalled = errors.New("no answer within the stall timeout")

// errBehind is that of one whose body came much slower than others of its host did.
var errBehind = errors.New("the body fell behind, the rest is asked for anew")

// transportFailure judges an error of a round trip or of reading a body. ctx is
// that of the request, whose cause tells a stall from the caller's giving up.
func transportFailure(ctx context.Context, err error) *failure {
	if f, ok := judged(err); ok {
		return f
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errStalled) {
			return &failure{kind: fserr.Unavailable, retry: true, down: true, err: cause}
		}
		if errors.Is(cause, errBehind) {
			return &failure{kind: fserr.Unavailable, retry: true, behind: true, err: cause}
		}
		return &failure{kind: fserr.KindOf(cause), err: cause}
	}
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		f := statusFailure(answer.StatusCode, "", "token server: "+answer.Errors.Error(), 0)
		if answer.StatusCode == http.StatusBadRequest || f.kind == fserr.NotExist {
			f.kind = fserr.Unauthorized
		}
		return f
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return fail(fserr.Unauthorized, "the host wants a user name and a password, and none are known")
	}
	var where *url.Error
	network := errors.As(err, &where)
	if network && !strings.HasPrefix(where.URL, "http") {
		return fail(fserr.Unauthorized, "the host names no usable token server: %w", where.Err)
	}
	if network {
		err = where.Err // without the address, whose query may hold a signature
	}
	var netErr net.Error
	switch {
	case isTLS(err):
		return &failure{kind: fserr.Unavailable, down: true, tls: true, err: err}
	case errors.Is(err, errNotHTTP):
		return &failure{kind: fserr.Unavailable, err: err}
	case network, errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{kind: fserr.Unavailable, retry: true, down: true, err: err}
	}
	return fail(fserr.Unauthorized, "authentication: %w", err)
}

// isTLS reports whether the two sides do not agree on who they are, which
// trying again will not change.
func isTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		alert        tls.AlertError
		authority    x509.UnknownAuthorityError
		name         x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &invalid) ||
		err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// maxErrorBody is how much of an error document is read.
const maxErrorBody = 4 << 10

// answerFailure judges an answer that is not the one wanted, and ends it.
func answerFailure(resp *http.Response) *failure {
	var message string
	if resp.Body != nil && resp.Request != nil && resp.Request.Method != http.MethodHead {
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		if err == nil {
			message = errorMessage(data)
		}
	}
	discard(resp)
	return statusFailure(resp.StatusCode, resp.Header.Get("Retry-After"), message, statusOffset(resp))
}

// statusOffset is the time of the host, for a Retry-After that is a date.
func statusOffset(resp *http.Response) time.Duration {
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0
	}
	return time.Since(at)
}

func statusFailure(status int, retryAfter, message string, clock time.Duration) *failure {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if message != "" {
		text += ": " + message
	}
	f := &failure{kind: fserr.Unavailable, err: errors.New(text)}
	switch {
	case status == http.StatusNotFound, status == http.StatusGone:
		f.kind = fserr.NotExist
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.kind = fserr.Unauthorized
	case status == http.StatusRequestedRangeNotSatisfiable:
		f.kind = fserr.Corrupt
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		f.retry, f.down = true, true
		f.after = parseRetryAfter(retryAfter, clock)
	case status == http.StatusNotImplemented, status == http.StatusHTTPVersionNotSupported:
		f.kind = fserr.Unsupported
	case status >= 500:
		f.retry, f.down = true, true
		f.after = parseRetryAfter(retryAfter, clock)
	case status >= 400:
		f.kind = fserr.Invalid
	}
	return f
}

// errorMessage takes the first error of the document that the distribution
// specification describes, if it is one.
func errorMessage(data []byte) string {
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(data, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	e := doc.Errors[0]
	text := strings.ToValidUTF8(strings.TrimSpace(e.Code+" "+e.Message), "?")
	if len(text) > 256 {
		text = strings.ToValidUTF8(text[:256], "") + "..."
	}
	return text
}

// parseRetryAfter understands both forms of the header; 0 when there is none.
// clock is how much this machine's clock is ahead of the host's.
func parseRetryAfter(s string, clock time.Duration) time.Duration {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return max(0, time.Until(at.Add(clock)))
}

// discard ends an answer so that the connection can be used again, if little is
// left to read.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	// The connection is lost if this fails, and that is all.
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	_ = resp.Body.Close()
}
