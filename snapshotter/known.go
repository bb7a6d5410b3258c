package snapshotter

import (
	"context"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// answerKnown answers for a chain that has a snapshot, whose lock is held. The chain ID
// is a claim of whoever made the image, so an image that may mean other bytes by it gets
// the snapshot only if the Backend says that it may; else containerd unpacks the layer,
// and the two have a snapshot each.
func (s *Snapshotter) answerKnown(ctx context.Context, state targetState, parent, target string, labels map[string]string) (string, error) {
	chain := chainKey(target)
	if state == targetElsewhere {
		s.logHandBack(chain, ReasonOtherParent, nil)
		return ReasonOtherParent, nil
	}
	below, _ := remoteChain(parent)
	now, err := parseLayer(labels, target, below)
	if err == nil {
		was, jerr := s.journal.layer(chain)
		if jerr != nil || !sameImage(was, now) {
			if reason, err := s.shareChain(ctx, was, now); reason != reasonNone || err != nil {
				return reason, err
			}
		}
	}
	s.counters.update(func(st *Stats) { st.Existing++ })
	return reasonNone, nil
}

// sameImage reports whether two layers are the same one of the same manifest, so that
// they cannot mean different bytes.
func sameImage(was, now Layer) bool {
	return was.Digest == now.Digest && was.ManifestDigest == now.ManifestDigest &&
		(now.ManifestDigest != "" || was.Ref == now.Ref && was.Labels[LabelTOCDigest] == now.Labels[LabelTOCDigest])
}

// shareChain asks the Backend whether the layer of another image may be served from what
// is there.
func (s *Snapshotter) shareChain(ctx context.Context, was, now Layer) (string, error) {
	if was.Digest != now.Digest {
		// Usually another compression of the same files, but worth a line.
		s.log.Warn("an image names another blob for a chain that is already there", zap.String("chain", now.ChainID),
			zap.String("served", was.Digest), zap.String("served_from", was.Ref), zap.String("named", now.Digest), zap.String("image", now.Ref))
	}
	_, err := s.backend.AddLayer(ctx, now)
	if fserr.Is(err, fserr.NotExist) && ctx.Err() == nil {
		// Perhaps it is the chain that the Backend has no more: what was served comes first.
		if err = s.addAgain(ctx, now.ChainID); err == nil {
			_, err = s.backend.AddLayer(ctx, now)
		}
	}
	switch {
	case err == nil:
		return reasonNone, nil
	case ctx.Err() == nil && (fserr.Is(err, fserr.Corrupt) || fserr.Is(err, fserr.Busy)):
		s.logHandBack(now.ChainID, ReasonOtherLayer, err)
		return ReasonOtherLayer, nil
	}
	return s.judge(ctx, now, err)
}
