package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// writeImage makes an OCI layout of an image whose one layer is the tar, gzip -6.
func writeImage(ctx context.Context, layer, dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return err
	}
	packed := filepath.Join(dir, "layer")
	if err := gzipTo(ctx, layer, packed); err != nil {
		return err
	}
	diffID, _, err := sum(layer)
	if err != nil {
		return err
	}
	digest, size, err := sum(packed)
	if err != nil {
		return err
	}
	if err := os.Rename(packed, filepath.Join(blobs, digest)); err != nil {
		return err
	}
	type object = map[string]any
	put := func(mediaType string, v any) (object, error) {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		d := fmt.Sprintf("%x", sha256.Sum256(text))
		return object{"mediaType": mediaType, "digest": "sha256:" + d, "size": len(text)},
			os.WriteFile(filepath.Join(blobs, d), text, 0o600)
	}
	const oci = "application/vnd.oci.image."
	config, err := put(oci+"config.v1+json", object{"architecture": "amd64", "os": "linux", "config": object{},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + diffID}}})
	if err != nil {
		return err
	}
	manifest, err := put(oci+"manifest.v1+json", object{"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config,
		"layers": []object{{"mediaType": oci + "layer.v1.tar+gzip", "digest": "sha256:" + digest, "size": size}}})
	if err != nil {
		return err
	}
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": imageName}
	manifest["platform"] = object{"architecture": "amd64", "os": "linux"}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []object{manifest}})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600))
}

func gzipTo(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	cmd := exec.CommandContext(ctx, "gzip", "-6", "-n")
	cmd.Stdin, cmd.Stdout = in, out
	return cmd.Run()
}

// sum gives a file's digest in hex, and its size.
func sum(path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), size, nil
}
