package source

import (
	"context"
	"io"
)

// Span is a range of a blob, from Lo up to, not including, Hi.
type Span struct{ Lo, Hi int64 }

// MultiRanger is a Blob that can bring several ranges with one request.
type MultiRanger interface {
	Blob
	// OpenRanges reads ranges, ascending and apart from each other, as one stream
	// that has one after the other. Nothing is resumed: whoever gets an error asks
	// for what is missing range by range. The error is of kind Unsupported when no
	// host knows such requests.
	OpenRanges(ctx context.Context, ranges []Span) (io.ReadCloser, error)
	// TakesRanges is false when the host is known not to take such requests.
	TakesRanges() bool
}
