package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nineply/nineply/internal/doctor"
)

// doctorContainerd says what doctor is to do with containerd's configuration.
type doctorContainerd struct {
	alone, write, cri bool
	name              string
}

func (d *doctorContainerd) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.alone, "containerd", false, "check containerd's configuration alone, for the version that is installed")
	cmd.Flags().BoolVar(&d.write, "write", false, "with --containerd: add what is missing")
	cmd.Flags().StringVar(&d.name, "name", "nineply", "with --containerd: the snapshotter's name there")
	cmd.Flags().BoolVar(&d.cri, "cri", true, "with --containerd: pods use the snapshotter")
}

func (d *doctorContainerd) findings(ctx context.Context, o doctor.Options) []doctor.Finding {
	switch {
	case d.alone && d.write:
		return []doctor.Finding{doctor.WriteContainerd(ctx, o, d.name, d.cri)}
	case d.alone:
		return []doctor.Finding{doctor.CheckContainerd(ctx, o, d.name, d.cri)}
	}
	return doctor.Run(ctx, o)
}
