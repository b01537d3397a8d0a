// Package e2e holds the end-to-end tests: the program ckarchive as users run it,
// with real containers under runc, real CRIU and a real registry. Nothing is
// faked. They need root; on a machine that lacks something they skip and say
// what, except when CI is "true".
//
// The containers run test/workload, which checks itself byte by byte. A test is
// right when the restored workload goes on from the tick at which it was frozen
// and finds everything as it was.
package e2e
