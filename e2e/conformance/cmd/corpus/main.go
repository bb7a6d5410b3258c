// Command corpus writes an image again with everybody's layer writers, each to a
// tag of its own in an OCI layout:
//
//	corpus [-layer NUMBER] SOURCE DESTINATION [VARIANT...]
//
// The source is a layout and a tag, separated by a colon, or one of the images
// that the product's tests make: "small" or "demo". With -layer, only this one of
// its layers is taken, 0 the bottom one.
// The variants are listed by corpus without arguments, one a line: name, format
// in which it is lazy or "-", description.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/nineply/nineply/e2e/conformance/corpus"
	"github.com/nineply/nineply/internal/demoimage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	layer := flag.Int("layer", -1, "number of the only layer to take")
	flag.Parse()
	if err := run(ctx, *layer, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be deferred
	}
}

func run(ctx context.Context, layer int, args []string) error {
	switch len(args) {
	case 0:
		for _, v := range corpus.Variants() {
			lazy := v.Lazy
			if lazy == "" {
				lazy = "-"
			}
			fmt.Printf("%s\t%s\t%s\n", v.Name, lazy, v.Doc)
		}
		return nil
	case 1:
		return errors.New("usage: corpus [-layer NUMBER] SOURCE DESTINATION [VARIANT...]")
	}
	variants, err := corpus.Select(args[2:])
	if err != nil {
		return err
	}
	dst, err := corpus.NewLayout(args[1])
	if err != nil {
		return err
	}
	src, err := source(ctx, args[0], args[1]+".small")
	if err != nil {
		return err
	}
	var layers []int
	if layer >= 0 {
		layers = append(layers, layer)
	}
	if err := corpus.Convert(ctx, src, dst, variants, layers...); err != nil {
		return err
	}
	return dst.Close()
}

// source names the layout and tag of an image; the small one is made in dir.
func source(ctx context.Context, name, dir string) (string, error) {
	var im *demoimage.Image
	var err error
	switch name {
	case "small":
		im, err = demoimage.BuildSmall(ctx, dir)
	case "demo":
		im, err = demoimage.Build(ctx, demoimage.Options{})
	default:
		return name, nil
	}
	if err != nil {
		return "", err
	}
	return im.Dir + ":" + im.Tag, nil
}
