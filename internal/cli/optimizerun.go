package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nineply/nineply/internal/optimize"
	"github.com/spf13/cobra"
)

// runFlags say how optimize runs an image.
type runFlags struct {
	run, waitOnSignal, anyExit     bool
	command, env, mounts           []string
	entrypoint, user, workDir, net string
	runtime                        string
	period                         time.Duration
	given                          func(name string) bool
}

func (f *runFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.run, "run", false, "run the image to see what it reads")
	flags.DurationVar(&f.period, "period", optimize.DefaultPeriod, "how long the command may run before it is stopped")
	flags.BoolVar(&f.waitOnSignal, "wait-on-signal", false, "let the command run until this program is interrupted (Ctrl-C, SIGTERM), whatever the period")
	flags.BoolVar(&f.anyExit, "any-exit", false, "go on even if the command fails")
	flags.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the command; can be given several times")
	flags.StringVar(&f.user, "user", "", "user of the command, USER[:GROUP] by name or number (default: the image's)")
	flags.StringVar(&f.workDir, "workdir", "", "working directory of the command (default: the image's)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "program, and arguments behind spaces, in the place of the image's entry point and Cmd; empty: no entry point")
	flags.StringArrayVar(&f.mounts, "mount", nil, "SOURCE:TARGET[:ro], a file or directory of this host for the command; can be given several times")
	flags.StringVar(&f.net, "net", "none", "network of the command: none (its own loopback interface) or host")
	flags.StringVar(&f.runtime, "runtime", "", "OCI runtime (default: runc, else crun)")
	f.given = flags.Changed
}

// options gives how to run the image, or nil.
func (f *runFlags) options() (*optimize.Run, error) {
	if !f.run && f.command == nil {
		for _, name := range []string{"period", "wait-on-signal", "any-exit", "env", "user", "workdir", "entrypoint", "mount", "net", "runtime"} {
			if f.given(name) {
				return nil, usageError{fmt.Errorf("--%s is for --run, or for a command behind --", name)}
			}
		}
		return nil, nil
	}
	if err := f.check(); err != nil {
		return nil, usageError{err}
	}
	r := &optimize.Run{Period: f.period, Runtime: f.runtime, AnyExit: f.anyExit, Command: optimize.Command{
		Args: f.command, Env: f.env, User: f.user, WorkDir: f.workDir, HostNet: f.net == "host",
	}}
	if f.waitOnSignal {
		r.Period = -1
	}
	for _, text := range f.mounts {
		m, err := optimize.ParseMount(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--mount: %w", err)}
		}
		r.Command.Mounts = append(r.Command.Mounts, m)
	}
	if f.given("entrypoint") {
		r.Command.Entrypoint = strings.Fields(f.entrypoint)
	}
	return r, nil
}

// check refuses what cannot be meant.
func (f *runFlags) check() error {
	switch {
	case f.command != nil && len(f.command) == 0:
		return errors.New("no command behind --: name one, or use --run")
	case f.period <= 0:
		return fmt.Errorf("--period: %v is no time to run", f.period)
	case f.net != "none" && f.net != "host":
		return fmt.Errorf("--net: %q is neither none nor host", f.net)
	}
	for _, text := range f.env {
		if name, _, ok := strings.Cut(text, "="); !ok || name == "" {
			return fmt.Errorf("--env: %q is not NAME=VALUE", text)
		}
	}
	return nil
}
