// Package criu is CRIU as a library: it dumps a running container into a
// directory of images, brings such a directory back to life, and reads and
// checks images without CRIU.
//
// CRIU is driven through its own service protocol ("criu swrk"), one process
// per request, with a client of this package: go-criu's cannot pass file
// descriptors, answer a query or be told to stop. What a request needs is
// taken from the container itself (/proc/PID/mountinfo, cgroup, fd) and from
// its OCI runtime spec, so that it does not matter which runtime made it.
//
// A dump is a transaction. CRIU asks before it lets the container go on or
// ends it ([DumpOptions].PostDump); every error until then, an end of this
// process included, leaves the container as it was.
//
// CRIU runs with umask 077, a scrubbed environment, in its own session and in
// its own mount namespace: mounts that it makes are gone with it, however it ends.
package criu
