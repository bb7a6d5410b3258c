// Package faultfs is a file system in memory for tests of what the disk does to
// a program: it fails calls on request, tears writes, runs full, and forgets at
// a power cut what was not synced.
//
// An [FS] is a [chunkstore.FS]. Every call that changes something has a number;
// [FS.Inject] sees each call first and may fail it. [FS.CutPower] lets nothing
// more through from a given change on. Changes that are made elsewhere and share the
// disk's fate are counted by [FS.Change]. What a disk would then hold is given by
// [FS.AfterPowerCut], as a new FS: of the writes since a file's last sync, any
// piece may have reached the disk or not, in any order, and of the changes to a
// directory any first part. [FS.AfterKill] is what a killed process leaves:
// everything.
//
// It is imported by tests only.
package faultfs
