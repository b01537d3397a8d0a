// Package foreign reads the checkpoints of other engines: Podman, CRI-O and the kubelet,
// containerd, Docker, and the bare image directories of OCI runtimes.
//
// [Open] makes a [Source] of anything that an [archive.Source] can list. It tells by the
// content, never by a name, who made it, and gives the members in the archive's own order, all
// with the time of the checkpoint, with a ckarchive.json in front that says what is known of
// it. Who reads a Source need not know that it is foreign. A checkpoint that has a ckarchive.json
// passes unchanged.
//
// What is not in a foreign checkpoint is not invented: the field of [archive.Metadata] stays
// empty.
//
// The formats were read off archives of Podman 4.3, CRI-O 1.37 and containerd 2.3, and off the
// sources of Podman 6 and Docker 28; docs/formats.md describes them.
package foreign
