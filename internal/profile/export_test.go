package profile

import "time"

// NewRecorderAt is NewRecorder with a clock of its own.
func NewRecorderAt(chunks []int, l Limits, now func() time.Time) *Recorder {
	return newRecorder(chunks, l, now)
}

// Parse reads the unpacked form of a profile, Unpack gives it.
func Parse(raw []byte) (*Profile, error) { return parse(raw) }

// Unpack gives the unpacked form of a profile's file.
func Unpack(data []byte) ([]byte, error) { return unpack(data) }

// Seal makes a file of the unpacked form, whatever it says.
func Seal(raw []byte) ([]byte, error) { return seal(raw) }
