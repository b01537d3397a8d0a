// Package artifact is a checkpoint as an OCI image: manifest, config, one layer
// and annotations. It is the only package that knows both entries and descriptors.
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
package artifact
