// Package artifact is a checkpoint as OCI content: manifest, config, layers and
// annotations. It is the only package that knows both entries and descriptors. There are two forms:
// the universal image, which engines read, and the native artifact, of which a later checkpoint of
// the same container stores only what changed. [OpenCheckpoint] reads both.
//
// # The universal image
//
//	manifest   application/vnd.oci.image.manifest.v1+json
//	           artifactType application/vnd.ckarchive.checkpoint.v1
//	config     application/vnd.oci.image.config.v1+json; diff_ids holds the
//	           SHA-256 of the uncompressed layer
//	layer      application/vnd.oci.image.layer.v1.tar+zstd, +gzip or plain: the
//	           universal tar of package archive, byte for byte
//	annotations those by which Podman (io.podman.annotations.checkpoint.*),
//	           CRI-O (io.kubernetes.cri-o.annotations.checkpoint.*) and containerd
//	           (org.criu.checkpoint.*) know a checkpoint
//
// Any registry stores it. Podman and CRI-O restore it when the archive names its base
// image with its ID; unpacking the layer gives the tar that a file export would have given. Nothing in it depends on
// when or where it is written: the same checkpoint has the same digest.
//
// [Writer] makes it, [Open] reads it, and the checkpoint images of Podman,
// CRI-O and containerd, which have the same shape, as well.
//
// # The native artifact
//
//	manifest   as above, with the same artifact type and annotations
//	config     application/vnd.ckarchive.config.v1+json
//	layers     application/vnd.ckarchive.meta.v1.tar+zstd: the universal tar, in which memory
//	           and root file system are empty files
//	           application/vnd.ckarchive.pageindex.v1+zstd: where the memory is, see package pages
//	           application/vnd.oci.image.layer.v1.tar+zstd: rootfs-diff.tar, if there is one
//	           application/vnd.ckarchive.pagepack.v1, .pagedelta.v1: every pack that the index
//	           names, also those that came with a parent
//
// The manifest names all that is needed, so copies by any tool are whole, and removing a parent does not
// break its children. The parent is an annotation, never a subject: referrers are removed with what they refer to.
//
// [NativeWriter] makes it, [OpenNative] reads it.
package artifact
