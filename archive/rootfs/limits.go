package rootfs

// What a difference may hold. Writers keep to the same limits as readers.
const (
	// MaxEntries is the number of entries of a difference, and of the names in its list of deletions.
	MaxEntries = 4_000_000
	// MaxNameBytes is the length of a name or of a link's target, PATH_MAX of Linux without its NUL.
	MaxNameBytes = 4095
	// MaxComponentBytes is the length of one component of a name, NAME_MAX of Linux.
	MaxComponentBytes = 255
	// MaxDepth is the number of components of a name.
	MaxDepth = 1024
	// MaxXattrBytes is the length of one extended attribute, XATTR_SIZE_MAX of Linux.
	MaxXattrBytes = 64 << 10
	// MaxXattrsBytes is what all extended attributes of an entry take together. It keeps
	// the PAX header below the megabyte that archive/tar reads.
	MaxXattrsBytes = 512 << 10
	// MaxXattrs is the number of extended attributes of an entry.
	MaxXattrs = 1024

	// copyBufferBytes is the unit in which content moves.
	copyBufferBytes = 1 << 20
)
