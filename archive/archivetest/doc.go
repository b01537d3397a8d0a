// Package archivetest is the contract of [archive.Source] and [archive.Sink] as
// a test suite. Every implementation runs it:
//
//	archivetest.TestSource(t, open, archivetest.Checkpoint())
//	archivetest.TestSink(t, create)
//
// [Checkpoint] is a small checkpoint for that and for other tests, and
// [Source] plays one from memory.
package archivetest
