// Package env gives tests the real things: a root file system with a workload
// that checks itself, containers of runc, a registry, the ckarchive binary, and
// a check that nothing of it is left behind. What a test starts here ends with it.
package env
