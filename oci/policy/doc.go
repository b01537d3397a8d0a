// Package policy decides what of an archive's runtime spec may be used on this
// host. A memory image is code, and restoring it runs that code; the spec around
// it decides what the code can reach. The spec is therefore built anew from a list of what is
// known and harmless: a restored container is as confined as one that Docker or Podman starts
// from an unknown image. What goes beyond that is refused unless it was granted by name, and all
// reasons are given at once.
//
// A spec cannot confine by itself what is restored, because tasks get their capabilities, mounts and
// system call filters from the memory images. Package criu holds the images against the spec.
package policy
