// Package rootfs says what changed in a container's root file system and puts
// such changes into another one.
//
// [Overlay] and [Directory] write a difference as a tar stream; [Apply] takes
// it, after [Check] has read it to its end. [Layers] finds the directories
// behind an overlay mount, [CopyTree] makes the working copy of a base to
// which a difference is applied.
//
// # The format
//
// A difference is an uncompressed PAX tar in the order of a sorted walk. Its
// first entry is "/", with mode and owner of the root. The parents of each
// entry are in it, so that their mode and owner come along. Names are relative
// and clean. What was deleted is there twice, because engines read one or the
// other dialect: as OCI whiteout "dir/.wh.name" in the tar, one for each name and
// never an opaque mark, and in the list that becomes deleted.files, which names
// the target and, for appliers that unpack whiteouts as files, the whiteout
// itself. A directory that came back in another shape is in no list.
//
// Extended attributes are PAX records SCHILY.xattr.NAME: security.*, user.* and
// POSIX ACLs. Overlay's own marks, trusted.* and the labels that a host's
// security module gives (SELinux, Smack, EVM) are left out. An entry's attributes
// are complete: [Apply] removes those that it does not name. Sockets are in no
// tar; they are reported. Holes in files are read as zeros. Owners are those that
// the caller sees: for a container in a user namespace, the host's numbers.
//
// # Trust
//
// [Apply] takes tars of any origin. Every name is resolved as inside a chroot,
// so that "/var/run -> /run" leads where it does in the container and nothing
// leads outside; every change is made relative to an open directory, never
// by path, never through a link in the last component, and never on another mount
// than that of the root.
package rootfs
