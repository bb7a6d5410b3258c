// Package config is the daemon's configuration: one TOML file, every key with a
// working default, so that the daemon runs with none.
//
// [Default] gives the defaults for a pair of directories, [Load] lays a file
// over them, [Config.Validate] checks what is left, and [Config.Write] prints
// the effective file with its comments. Unknown keys are errors. Sizes and
// durations are strings with units ("64MiB", "30s").
package config
