// Package runtime finds and drives containers of the OCI runtimes on this host.
//
// A [Runtime] is one row of a table (runc, crun, youki, runsc) with a binary and a
// state directory, or ckarchive itself for containers that CRIU restored without a
// runtime. The engines that use runtimes (Podman, Docker, containerd, CRI-O) are a second
// table: where their state directories and bundles are, and what their files call a
// container. [Find] and [All] look in all of them; no engine is asked. Nothing here knows of CRIU:
// what crosses to it is a pid, a runtime spec and a directory.
package runtime
