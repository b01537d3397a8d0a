package archive

// What a reader accepts before it rejects an archive. Everything here is far
// above what real checkpoints hold and far below what hurts.
const (
	// MaxEntries is the number of members, and of names with the folders that they imply.
	MaxEntries = 100_000
	// MaxNameBytes is the length of a name.
	MaxNameBytes = 4096
	// MaxComponentBytes is the length of one component of a name, NAME_MAX of Linux.
	MaxComponentBytes = 255
	// MaxNameDepth is the number of components of a name.
	MaxNameDepth = 64
	// MaxJSONBytes is the length of a JSON member (config.dump, spec.dump, ckarchive.json).
	MaxJSONBytes = 16 << 20
	// MaxJSONDepth is how deep JSON may nest.
	MaxJSONDepth = 200
	// MaxExtendedHeaderBytes is the length of one PAX or GNU extension header, as in archive/tar.
	MaxExtendedHeaderBytes = 1 << 20
	// MaxAllExtendedBytes is the length of all of them together: names are kept in memory.
	MaxAllExtendedBytes = 64 << 20
	// MaxPaddingBytes is the length of the zeros behind the end mark. GNU tar writes
	// less than 10 KiB of them, tape drives less than a few MiB.
	MaxPaddingBytes = 64 << 20
	// maxHeaders is the number of tar headers: two for each member, and some global ones.
	maxHeaders = 2*MaxEntries + 1000
	// MaxTotalBytes is the sum of the sizes of all members: 64 TiB.
	MaxTotalBytes int64 = 64 << 40
	// maxZstdWindow bounds the memory that a zstd frame may ask for, in bytes.
	maxZstdWindow = 128 << 20
	// copyBufferBytes is the unit in which content moves.
	copyBufferBytes = 1 << 20
)
