// Package interop carries checkpoints between ckarchive and other engines: what one of them made
// the other restores, and the workload in it says that nothing is lost.
package interop
