// Package histogram counts how long things took, by a fixed list of bounds.
//
// A [Histogram] is for the way of a read: observing neither locks nor allocates.
// What costs is the clock, so that who observes something shorter than reading the
// clock twice looks at one of many, and says so by the weight: one that stands for
// 64 counts 64 times.
//
// The package knows nothing of Prometheus: who collects metrics takes a [Snapshot].
package histogram
