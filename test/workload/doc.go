// Workload is the program that runs in the containers of the tests and checks
// itself byte by byte while it is frozen, moved and brought back: its memory,
// its children behind pipes, a file in a tmpfs, a deleted open file, a volume
// and a TCP connection. The idea is CRIU's own (zdtm): a restore is right when
// the restored program says so.
//
// Each tick it verifies a part, changes a part, prints "tick N" to stdout and
// replaces the status file with one line of JSON. When a file verify-request
// appears beside the status file, it verifies everything, writes verify-result
// (with the request's text in it) and removes the request. A mismatch is
// written to the status file and ends it with status 3; SIGTERM ends it with 0,
// SIGUSR1 with 7.
package main
