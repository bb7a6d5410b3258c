package registry

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// task is something that any of several hosts can do.
type task struct {
	op, object string
	endpoints  []*endpoint
	// rank puts endpoints with a smaller number first; nil leaves the order.
	rank func(*endpoint) int
	// try asks one host.
	try func(ctx context.Context, e *endpoint) error
}

// run asks the hosts in order, and again in rounds while that may help. The kind
// of the error is what the last host in the configured order said, the
// authority: that a mirror lacks something says little, and that the authority
// lacks it says all.
func (r *Registry) run(ctx context.Context, t task) error {
	if len(t.endpoints) == 0 {
		return fserr.Newf(fserr.Unsupported, t.op, t.object, "no host is configured for this")
	}
	pause := r.newBackoff()
	for round := 1; ; round++ {
		res, err := r.round(ctx, t, round > 1)
		if err == nil {
			return nil
		}
		if res == nil {
			return fserr.New(fserr.KindOf(err), t.op, t.object, err)
		}
		authority := t.endpoints[len(t.endpoints)-1]
		failed := fserr.New(res.authority.kind, t.op, t.object, fmt.Errorf("%w%s", err, res.authority.advice(authority.Addr)))
		if !res.again || round >= r.opts.Attempts {
			return failed
		}
		d := max(res.after, pause.NextBackOff())
		if deadline, ok := ctx.Deadline(); res.after > r.opts.MaxRetryAfter || (ok && time.Until(deadline) < d) {
			return failed // waiting would be in vain
		}
		if err := r.opts.Sleep(ctx, d); err != nil {
			return fserr.New(fserr.KindOf(err), t.op, t.object, fmt.Errorf("%w, after: %w", err, failed))
		}
	}
}

func (r *Registry) newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = r.opts.BackoffInitial, r.opts.BackoffMax, 2
	return b
}

// result is how a round without success went.
type result struct {
	authority *failure
	again     bool
	after     time.Duration
}

// round asks each host once. A nil result with an error means that the caller
// gave up.
func (r *Registry) round(ctx context.Context, t task, repeated bool) (*result, error) {
	res := &result{after: -1}
	var failures []error
	for _, e := range t.order() {
		if repeated {
			r.stats.Host(e.Addr).Retries.Add(1)
		}
		err := t.try(ctx, e)
		if err == nil {
			e.up()
			return nil, nil
		}
		f := asFailure(err)
		if ctxErr := ctx.Err(); ctxErr != nil {
			return nil, fmt.Errorf("%w, while asking %s", ctxErr, e.Addr)
		}
		r.stats.Host(e.Addr).Failures.Add(1)
		if f.down {
			e.down()
		}
		failures = append(failures, fmt.Errorf("%s: %w", e.Addr, err))
		if f.retry {
			res.again = true
			if res.after < 0 || f.after < res.after {
				res.after = f.after
			}
		}
		if e == t.endpoints[len(t.endpoints)-1] {
			res.authority = f
		} else {
			r.opts.Logger.Debug("host passed over", zap.String("host", e.Addr), zap.String("object", t.object), zap.Error(err))
		}
	}
	if res.authority.kind == fserr.NotExist {
		res.again = false
	}
	res.after = max(res.after, 0)
	return res, joined(failures)
}

// order sorts the endpoints for one round: unsuspected before suspected, then
// those that answered lately before those that did not.
func (t task) order() []*endpoint {
	if len(t.endpoints) == 1 {
		return t.endpoints
	}
	now := time.Now()
	weight := func(e *endpoint) int {
		w := 0
		if e.isDown(now) {
			w = 1
		}
		if t.rank != nil {
			w += 2 * t.rank(e)
		}
		return w
	}
	out := slices.Clone(t.endpoints)
	slices.SortStableFunc(out, func(a, b *endpoint) int { return cmp.Compare(weight(a), weight(b)) })
	return out
}

// joined is one error of several, on one line.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return several(errs)
}

type several []error

// Error implements error.
func (s several) Error() string {
	texts := make([]string, len(s))
	for i, err := range s {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives all of them.
func (s several) Unwrap() []error { return s }
