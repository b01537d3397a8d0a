// Package matrix proves which archives go where: containers of every runtime and
// engine, dumped in every way, restored by every runtime on a second host. It
// runs the program ckarchive as users do, with a workload that checks itself.
//
// Every cell is tried. One that cannot work has a reason in the table, and
// ckarchive must refuse it in its own words; any other failure fails the test.
// `make test` runs the first half of the table, `make matrix` all of it, and prints it.
package matrix
