// Package harness runs the real surroundings of the product for the end-to-end
// tests: Debian's registry, a proxy before it that counts and shapes what is
// fetched, containerd 1.6 and 2.x with the snapshotter plugged in, and the
// product's own daemon.
//
// Everything listens on the loopback interface or on unix sockets in a private
// directory, and is stopped when the test ends; what is left behind then (a
// mount, a process) fails the test. A missing program skips the test, or fails
// it where the environment has CI=true or NINEPLY_E2E=require.
package harness
