package keeper

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nineply/nineply/internal/mount"
)

// Paths of the control socket's API.
const (
	pathMount  = "/v1/mount"
	pathUmount = "/v1/umount"
	pathMounts = "/v1/mounts"
	pathHealth = "/v1/health"
)

// Duration is a [time.Duration] written as text, such as "30s".
type Duration time.Duration

// MarshalJSON writes the text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads it.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// MountOptions are the parts of a mount that have defaults.
type MountOptions struct {
	// NoSuid and NoDev ignore set-user-ID bits and device nodes.
	NoSuid bool `json:"nosuid,omitempty"`
	NoDev  bool `json:"nodev,omitempty"`
	// ReadAhead in bytes; 0 is the default, below 0 the kernel's.
	ReadAhead int `json:"readahead,omitempty"`
	// Patience is how long readers wait for the daemon before EIO; 0 is the
	// keeper's setting.
	Patience Duration `json:"patience,omitempty"`
	// Direct is mount.Options.Direct.
	Direct bool `json:"direct,omitempty"`
}

// MountRequest is the body of POST /v1/mount. The answer is the mount's
// [mount.Status].
type MountRequest struct {
	Aname   string       `json:"aname"`
	Target  string       `json:"target"` // absolute; made if it is not there
	Mode    mount.Mode   `json:"mode,omitempty"`
	Options MountOptions `json:"options,omitzero"`
}

// UmountRequest is the body of POST /v1/umount. A target that is not mounted
// is no error.
type UmountRequest struct {
	Target string `json:"target"`
	Lazy   bool   `json:"lazy,omitempty"`
}

// Health is the answer to GET /v1/health.
type Health struct {
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Connect string    `json:"connect"` // where the daemon is
	Started time.Time `json:"started"`
	Mounts  int       `json:"mounts"`
	// Waiting is how many mounts have no connection to the daemon now.
	Waiting int `json:"waiting"`
	// Draining: asked to stop, the keeper takes no new mounts and ends with
	// its last one.
	Draining bool `json:"draining"`
	// V9FS is empty if the kernel's 9p client can be used, else the reason.
	V9FS string `json:"v9fs"`
}

// Restoring is the state of a mount that a restarted keeper has yet to make
// again.
const Restoring mount.State = "restoring"

// failure is the body of an answer that is not 200.
type failure struct {
	Kind  string `json:"kind"` // an fserr.Kind's words
	Error string `json:"error"`
}
