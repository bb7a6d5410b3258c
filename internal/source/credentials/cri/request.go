package cri

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of runtime.v1, which are those of runtime.v1alpha2.
const (
	pullImage = 1 // PullImageRequest: ImageSpec
	pullAuth  = 2 // AuthConfig

	specImage = 1 // ImageSpec: string

	authUsername      = 1 // AuthConfig: strings
	authPassword      = 2
	authAuth          = 3
	authServer        = 4
	authIdentityToken = 5
	authRegistryToken = 6
)

var errRequest = errors.New("not a PullImage request")

// parsePull reads a PullImageRequest. Only what is needed is looked at, so that
// fields of newer versions do no harm.
func parsePull(data []byte) (pull, error) {
	var p pull
	err := fields(data, func(n protowire.Number, value []byte) error {
		switch n {
		case pullImage:
			return fields(value, func(n protowire.Number, value []byte) error {
				if n == specImage {
					p.image = string(value)
				}
				return nil
			})
		case pullAuth:
			return fields(value, p.setAuth)
		}
		return nil
	})
	return p, err
}

func (p *pull) setAuth(n protowire.Number, value []byte) error {
	into := map[protowire.Number]*string{
		authUsername: &p.username, authPassword: &p.password, authAuth: &p.auth,
		authServer: &p.server, authIdentityToken: &p.identityToken, authRegistryToken: &p.accessToken,
	}[n]
	if into != nil {
		*into = string(value)
	}
	return nil
}

// fields gives the length-delimited fields of a message to fn.
func fields(data []byte, fn func(n protowire.Number, value []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errRequest
		}
		data = data[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return errRequest
			}
			data = data[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return errRequest
		}
		if err := fn(number, value); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
