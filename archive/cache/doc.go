// Package cache keeps checkpoints as a restore unpacked and verified them, so that the next restore of
// the same one reads no archive: it links the memory, which the page cache most likely still holds, and copies the
// small rest.
//
// An entry is found by [Key]: the checkpoint's own digests and where it comes from.
//
// A [Cache] trusts its directory, which only its owner may reach. What is looked at before an entry is used is what an
// accident changes: the size and time of every file. Nothing is synced to the disk, so an entry
// is of use until the next boot. Several processes may use one cache.
package cache
