// Package archive is the entry plane of ckarchive: a checkpoint as an ordered
// stream of named files, whatever holds it.
//
// A [Source] yields entries, a [Sink] takes them, and [Copy] is the only loop
// that moves them. Tar files ([OpenFile], [CreateFile]), streams ([NewReader],
// [NewStreamSink]) and directories ([OpenDir], [CreateDir]) are here; CRIU's
// dump and OCI artifacts are sources and sinks of other packages.
//
// # The format
//
// A checkpoint archive is a tar file, uncompressed or packed with zstd or
// gzip. It holds regular files and directories only, under clean relative
// names; readers reject everything else, a missing end mark, and data behind
// it. Writers use PAX headers, owner 0:0 and the modes 0600 and 0700. The order
// is fixed, metadata first:
//
//	config.dump spec.dump status.dump ckarchive.json
//	bind.mounts network.status stats-dump dump.log
//	checkpoint/ checkpoint/descriptors.json checkpoint/inventory.img
//	checkpoint/*.img checkpoint/pages-*.img
//	devshm-checkpoint.tar rootfs-diff.tar deleted.files
//	volumes/*.tar
//
// config.dump, spec.dump, status.dump and the rest of the names are those that
// Podman, CRI-O, containerd and checkpointctl read. ckarchive.json is
// [Metadata]; it lists size and SHA-256 of every other file, which is what
// [Verify] proves. Readers keep members they do not know.
//
// # Commit
//
// A sink shows nothing before Commit. A file has its name only when it is
// whole, synced and read back ([AtomicFile]); a container is ended only after
// that.
package archive
