// Package runtime finds and drives containers of the OCI runtimes on this host.
//
// A [Runtime] is one row of a table (runc, crun, youki) with a binary and a
// state directory, or ckarchive itself for containers that CRIU restored without a
// runtime. [Find] looks for a container in all of them. Nothing here knows of CRIU:
// what crosses to it is a pid, a runtime spec and a directory.
package runtime
