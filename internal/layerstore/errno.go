package layerstore

import (
	"syscall"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// errno is what the client is told. A number is all it can be told, so the cause
// goes to the log, unless it is that there is no such thing.
func (s *Store) errno(op, ref, name string, err error) syscall.Errno {
	if fserr.Is(err, fserr.NotExist) {
		return syscall.ENOENT
	}
	s.log.Warn("layer store: "+op, zap.String("image", ref), zap.String("layer", name), zap.Error(err))
	return fserr.Errno(err)
}
