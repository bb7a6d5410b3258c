package fetch

import "github.com/nineply/nineply/internal/source"

// What a request costs decides how many bytes are worth fetching to save one. A
// neighbour is not always wanted, so only a part of a request's worth is spent on
// them, and never more than these.
const (
	gapShare, maxGap       = 8, 512 << 10
	minRunShare, maxMinRun = 4, 1 << 20
)

// learn looks up what requests for the blob cost. It is not for holders of
// Scheduler.mu: the source may look at files.
func (l *Layer) learn() {
	if c, ok := l.blob.(source.Coster); ok {
		if cost, known := c.Cost(); known {
			l.worth.Store(cost.WorthRequest())
		}
	}
}

// Cost is what one more request for the layer costs, in bytes that take as long, as
// far as was learned, else 0; and how many bytes between two wanted chunks are worth
// fetching to save one when there are few.
func (l *Layer) Cost() (request, gap int64) { return l.worth.Load(), l.gap() }

// gap is how many bytes between two wanted chunks are worth fetching to save a
// request.
func (l *Layer) gap() int64 {
	return max(l.s.opts.Gap, min(l.worth.Load()/gapShare, maxGap))
}

// minRun is to how many bytes a demand is extended over missing neighbours.
func (l *Layer) minRun() int64 {
	return max(l.s.opts.MinRun, min(l.worth.Load()/minRunShare, maxMinRun))
}
