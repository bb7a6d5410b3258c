package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// mkimage is the command "mkimage REF PLATFORM...", which writes an image of one
// plain layer, or with several platforms an index of such images. The layer of a
// platform that begins with "bad:" cannot be converted.
func mkimage() {
	if err := writeImage(context.Background(), os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func writeImage(ctx context.Context, ref string, platforms []string) error {
	p, err := layout.New().Pusher(ctx, ref)
	if err != nil {
		return err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i, platform := range platforms {
		target := ""
		if len(platforms) == 1 {
			target = ref
		}
		desc, err := writePlatform(ctx, p, target, platform, i)
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if len(platforms) > 1 {
		text, err := json.Marshal(index)
		if err != nil {
			return err
		}
		if _, err := p.PushManifest(ctx, ref, index.MediaType, text); err != nil {
			return err
		}
	}
	if c, ok := p.(source.Committer); ok {
		return c.Commit(ctx)
	}
	return nil
}

func writePlatform(ctx context.Context, p source.Pusher, target, platform string, number int) (ocispec.Descriptor, error) {
	platform, bad := strings.CutPrefix(platform, "bad:")
	operating, arch, _ := strings.Cut(platform, "/")
	spec := ocispec.Platform{OS: operating, Architecture: arch}
	layer, err := writeTar(number, bad)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := json.Marshal(ocispec.Image{Platform: spec, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptor(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayer, layer)}}
	for _, b := range []struct {
		desc ocispec.Descriptor
		data []byte
	}{{m.Config, config}, {m.Layers[0], layer}} {
		if err := p.PushBlob(ctx, b.desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.data)), nil }); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := p.PushManifest(ctx, target, m.MediaType, text)
	desc.Platform = &spec
	return desc, err
}

func descriptor(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// writeTar is a layer; a bad one has a hard link to nothing.
func writeTar(number int, bad bool) ([]byte, error) {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	files := []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/number", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
		{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3 << 20},
	}
	if bad {
		files = append(files, tar.Header{Name: "etc/broken", Typeflag: tar.TypeLink, Linkname: "nowhere"})
	}
	for _, h := range files {
		if err := tw.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(bytes.Repeat([]byte{byte('0' + number)}, int(h.Size))); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), tw.Close()
}
