// Package cli is the nineply command: a table of subcommands, each a thin layer
// of flags and printing over the package that does the work.
//
// Data goes to standard output, progress and logs to standard error. Every
// command that reports something has --json. Exit codes: 0 success, 1 failure,
// 2 wrong usage, 3 verification failed, 4 a source or the daemon is unreachable.
package cli
